"""The target's page store: the newest content of each page sent while the container still ran.

Each process has one unnamed file in RAM. A range of addresses is given its place there when it first
comes; later rounds write over it. Nothing is copied again at the freeze: the restore is served from here.
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
    size: int = 0

    def slot(self, vaddr: int) -> int | None:
        """Index of the range that holds an address."""
        index = bisect.bisect_right(self.starts, vaddr) - 1
        return index if index >= 0 and vaddr < self.ends[index] else None

    def make_slot(self, vaddr: int, size: int) -> int:
        """Give an address that has none a slot of at most `size` bytes, up to the next range. Its index."""
        index = bisect.bisect_right(self.starts, vaddr)
        if index < len(self.starts):
            size = min(size, self.starts[index] - vaddr)
        before = index - 1
        if before >= 0 and self.ends[before] == vaddr and self._is_last_in_file(before):
            self.ends[before] += size
            index = before
        else:
            self.starts.insert(index, vaddr)
            self.ends.insert(index, vaddr + size)
            self.offsets.insert(index, self.size)
        self.size += size
        return index

    def _is_last_in_file(self, index: int) -> bool:
        return self.offsets[index] + self.ends[index] - self.starts[index] == self.size


class PageStore:
    """Pages by process (its pid in its own namespace) and address. Use as a context.

    `directory` must be in RAM and the caller's own; the size of its file system bounds the store.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: dict[int, _Process] = {}

    def __bool__(self) -> bool:
        return bool(self._processes)

    def __enter__(self) -> PageStore:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in list(self._processes):
            self.forget(pid)

    def put(self, pid: int, vaddr: int, data: memoryview) -> None:
        """Take whole pages, the newest of their addresses."""
        if not data or len(data) % PAGE_SIZE or vaddr % PAGE_SIZE:
            raise ImageError(f"{len(data)} bytes at {vaddr:#x} are not pages")
        process = self._processes.get(pid) or self._open(pid)
        while data:
            index = process.slot(vaddr)
            if index is None:
                index = process.make_slot(vaddr, len(data))
            taken = min(len(data), process.ends[index] - vaddr)
            _write(process.fd, data[:taken], process.offsets[index] + vaddr - process.starts[index])
            vaddr += taken
            data = data[taken:]

    def forget(self, pid: int) -> None:
        """The process ended: its pages are given back. Another one may come to have its number."""
        process = self._processes.pop(pid, None)
        if process is not None:
            os.close(process.fd)

    def get(self, pid: int, vaddr: int, pages: int) -> Iterator[bytes]:
        """The content of pages, in pieces. Raises ImageError for one that never came."""
        process, end = self._processes.get(pid), vaddr + pages * PAGE_SIZE
        while vaddr < end:
            index = process.slot(vaddr) if process else None
            if process is None or index is None:
                raise ImageError(f"the page at {vaddr:#x} of process {pid} never came")
            size = min(end, process.ends[index]) - vaddr
            yield os.pread(process.fd, size, process.offsets[index] + vaddr - process.starts[index])
            vaddr += size

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
            if process is None or index is None:
                raise ImageError(f"the page at {vaddr:#x} of process {pid} never came")
            vaddr = process.ends[index]

    def _open(self, pid: int) -> _Process:
        path = self._directory / f"store-{pid}"
        process = _Process(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        path.unlink()
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
