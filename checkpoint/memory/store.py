"""The target's page store: the newest content of each page sent while the container still ran.

Each process has one file in RAM, laid out as the pages image of a *parent* of the final images: the
first round comes in order of address and gives every page its slot; later rounds overwrite slots in
place. Pages that appear later between two slots are kept aside (`late`). `fold` then points the
final pagemaps at the parent, so not a byte of the bulk is copied while the container is frozen.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from checkpoint.criu.page_wire import PAGE_SIZE, PE_LAZY, PE_PARENT, PE_PRESENT
from checkpoint.errors import ImageError
from checkpoint.images.pagemap import Entry, Pagemap

PARENT = "parent"


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
    """Pages by process (its pid in its own namespace) and address. Use as a context."""

    def __init__(self, images: Path) -> None:
        self._images = images
        self._directory = images.parent / PARENT
        self._processes: dict[int, _Process] = {}

    def __enter__(self) -> PageStore:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            os.close(process.fd)
        self._processes.clear()

    def put(self, pid: int, vaddr: int, data: memoryview) -> None:
        """Take whole pages, the newest of their addresses."""
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
                if os.pwrite(process.fd, data[:taken], offset) != taken:
                    raise ImageError("the page store is full")
            vaddr += taken
            data = data[taken:]

    def fold(self) -> None:
        """Complete the final images: every page they leave to us comes from the store.

        Raises ImageError when one is missing; nothing may be restored then.
        """
        for pid, process in self._processes.items():
            path = self._images / f"pagemap-{pid}.img"
            if path.exists():
                self._fold_process(path, pid, process)
        for path in self._images.glob("pagemap-[0-9]*.img"):
            if any(e.flags & PE_LAZY and not e.flags & PE_PRESENT for e in Pagemap.load(path).entries):
                raise ImageError(f"{path.name} wants pages that were never sent")
        if self._processes:
            (self._images / PARENT).symlink_to(f"../{PARENT}")

    def _open(self, pid: int) -> _Process:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = self._directory / f"pages-{len(self._processes) + 1}.img"
        process = _Process(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._processes[pid] = process
        return process

    def _fold_process(self, path: Path, pid: int, process: _Process) -> None:
        pages_id = list(self._processes).index(pid) + 1
        slots = tuple(
            Entry(vaddr=start, pages=(end - start) // PAGE_SIZE, flags=PE_PRESENT)
            for start, end in zip(process.starts, process.ends, strict=True)
        )
        Pagemap(pages_id=pages_id, entries=slots).save(self._directory / path.name)
        final = Pagemap.load(path)
        own = self._images / f"pages-{final.pages_id}.img"
        merged = _Merge(process, own.read_bytes() if own.exists() else b"")
        entries = tuple(merged.entries(final.entries, path.name))
        own.write_bytes(b"".join(merged.data))
        Pagemap(pages_id=final.pages_id, entries=entries).save(path)


class _Merge:
    """Rewrite a final pagemap and gather the bytes of its pages image, both in order of address."""

    def __init__(self, process: _Process, own: bytes) -> None:
        self._process, self._own, self._used = process, own, 0
        self.data: list[bytes] = []

    def entries(self, final: tuple[Entry, ...], name: str) -> Iterator[Entry]:
        for entry in final:
            if entry.flags & PE_PRESENT:
                size = entry.pages * PAGE_SIZE
                self.data.append(self._own[self._used : self._used + size])
                self._used += size
                yield entry
            elif entry.flags & PE_LAZY:
                yield from self._from_store(entry, name)
            else:
                yield entry

    def _from_store(self, entry: Entry, name: str) -> Iterator[Entry]:
        process, vaddr = self._process, entry.vaddr
        while vaddr < entry.end:
            index = process.slot(vaddr)
            if index is not None:
                end = min(entry.end, process.ends[index])
                yield Entry(vaddr=vaddr, pages=(end - vaddr) // PAGE_SIZE, flags=PE_PARENT)
                vaddr = end
            elif vaddr in process.late:
                self.data.append(process.late[vaddr])
                yield Entry(vaddr=vaddr, pages=1, flags=PE_PRESENT)
                vaddr += PAGE_SIZE
            else:
                raise ImageError(f"{name}: the page at {vaddr:#x} was never sent")
