"""The target's page store: the newest content of each page sent while the container still ran.

Each process has one file in RAM. The first round comes mostly in order of address and gives ranges
of pages their slots; later rounds overwrite slots in place. A page that turns up between two ranges
is kept aside (`late`). Nothing is copied again at the freeze: the restore is served from here.
"""

from __future__ import annotations

import bisect
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from checkpoint.criu.page_wire import PAGE_SIZE
from checkpoint.errors import ImageError
from checkpoint.images.pagemap import Pagemap


@dataclass
class _Process:
    """Slots of one process: sorted disjoint address ranges and where in the file each begins."""

    fd: int
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    late: dict[int, bytes] = field(default_factory=dict)
    size: int = 0

    def slot(self, vaddr: int) -> int | None:
        """Index of the range that holds an address."""
        index = bisect.bisect_right(self.starts, vaddr) - 1
        return index if index >= 0 and vaddr < self.ends[index] else None

    def append(self, vaddr: int, size: int) -> None:
        """Give slots to addresses beyond all others."""
        if self.ends and self.ends[-1] == vaddr:
            self.ends[-1] += size
        else:
            self.starts.append(vaddr)
            self.ends.append(vaddr + size)
            self.offsets.append(self.size)
        self.size += size


class PageStore:
    """Pages by process (its pid in its own namespace) and address. Use as a context.

    `directory` must be in RAM and the caller's own.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: dict[int, _Process] = {}

    def __bool__(self) -> bool:
        return bool(self._processes)

    def __enter__(self) -> PageStore:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            os.close(process.fd)
        self._processes.clear()

    def put(self, pid: int, vaddr: int, data: memoryview) -> None:
        """Take whole pages, the newest of their addresses."""
        if not data or len(data) % PAGE_SIZE or vaddr % PAGE_SIZE:
            raise ImageError(f"{len(data)} bytes at {vaddr:#x} are not pages")
        process = self._processes.get(pid) or self._open(pid)
        while data:
            if not process.ends or vaddr >= process.ends[-1]:
                process.append(vaddr, len(data))
            index = process.slot(vaddr)
            if index is None:
                process.late[vaddr] = bytes(data[:PAGE_SIZE])
                taken = PAGE_SIZE
            else:
                taken = min(len(data), process.ends[index] - vaddr)
                offset = process.offsets[index] + vaddr - process.starts[index]
                _write(process.fd, data[:taken], offset)
            vaddr += taken
            data = data[taken:]

    def get(self, pid: int, vaddr: int, pages: int) -> Iterator[bytes]:
        """The content of pages, in pieces. Raises ImageError for one that never came."""
        process, end = self._processes.get(pid), vaddr + pages * PAGE_SIZE
        if process is None:
            raise ImageError(f"no page of process {pid} ever came")
        while vaddr < end:
            index = process.slot(vaddr)
            if index is not None:
                size = min(end, process.ends[index]) - vaddr
                piece = os.pread(process.fd, size, process.offsets[index] + vaddr - process.starts[index])
            elif vaddr in process.late:
                piece = process.late[vaddr]
            else:
                raise ImageError(f"the page at {vaddr:#x} of process {pid} never came")
            yield piece
            vaddr += len(piece)

    def check_complete(self, images: Path) -> None:
        """Raise ImageError unless every page that the images leave to us is here."""
        for path in images.glob("pagemap-[0-9]*.img"):
            pid = int(path.stem.split("-")[1])
            process = self._processes.get(pid)
            for start, end in Pagemap.load(path).lazy_ranges():
                self._check_range(process, pid, start, end)

    def _check_range(self, process: _Process | None, pid: int, vaddr: int, end: int) -> None:
        while vaddr < end:
            index = process.slot(vaddr) if process else None
            if process and index is not None:
                vaddr = process.ends[index]
            elif process and vaddr in process.late:
                vaddr += PAGE_SIZE
            else:
                raise ImageError(f"the page at {vaddr:#x} of process {pid} never came")

    def _open(self, pid: int) -> _Process:
        path = self._directory / f"store-{pid}"
        process = _Process(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._processes[pid] = process
        return process


def _write(fd: int, data: memoryview, offset: int) -> None:
    try:
        written = os.pwrite(fd, data, offset)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        written = 0
    if written != len(data):
        raise ImageError("the page store is full: the container's memory grew too much during the move")
