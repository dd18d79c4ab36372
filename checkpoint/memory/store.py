"""The target's page store: the newest content of each page that was sent ahead of the restore.

Each address space, which is a process's memory or a shared mapping, has one unnamed file in RAM. A
range of addresses gets its place in the file when it first arrives; later rounds overwrite it. Lazy
pages are not copied again in the freeze: the pager serves the restore from the store.
"""

from __future__ import annotations

import bisect
import dataclasses
import errno
import os
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from checkpoint.criu.page_server import PAGE_SIZE, check_extent
from checkpoint.errors import ImageError
from checkpoint.host import whole
from checkpoint.host.kernel import punch_hole
from checkpoint.memory import ranges
from checkpoint.memory.ranges import Range

#: By dst_id of an address space: address ranges in rising order.
LazyRanges = dict[int, list[Range]]
#: The number of rewritten address ranges that are remembered, for `PageStore.hot`.
MAX_HOT = 1024


@dataclass
class _Space:
    """The slots of an address space: sorted disjoint address ranges, each with its file offset."""

    fd: int
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    size: int = 0

    def slot(self, vaddr: int) -> int | None:
        """Return the index of the slot that holds an address, or None."""
        index = bisect.bisect_right(self.starts, vaddr) - 1
        return index if index >= 0 and vaddr < self.ends[index] else None

    def make_slot(self, vaddr: int, size: int) -> int:
        """Make a slot for an address that has none, and return its index.

        The slot has `size` bytes, or fewer if the next slot begins before. A slot that ends at the
        address, and at the end of the file, is lengthened instead.
        """
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


#: By dst_id of an address space: where its pages are. It can be pickled.
Index = dict[int, _Space]


class PageStore:
    """The store of pages by address space (a dst_id of checkpoint/criu/page_server.py) and address.

    A context manager: leaving the block frees all pages. `directory` must be in RAM and the
    caller's own. The size of its file system bounds the store.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._spaces: dict[int, _Space] = {}
        self._rewritten: deque[tuple[int, Range]] = deque(maxlen=MAX_HOT)

    def __bool__(self) -> bool:
        return bool(self._spaces)

    def __enter__(self) -> PageStore:
        return self

    def __exit__(self, *_: object) -> None:
        for dst_id in list(self._spaces):
            self.forget(dst_id)

    def put(self, dst_id: int, vaddr: int, data: memoryview) -> None:
        """Store whole pages as the newest content of their addresses.

        Raises ImageError for data that is not whole pages, for addresses that no process can have,
        and when the store is full.
        """
        if len(data) % PAGE_SIZE:
            raise ImageError(f"{len(data)} bytes at {vaddr:#x} are not pages")
        check_extent(dst_id, vaddr, len(data) // PAGE_SIZE)
        space = self._spaces.get(dst_id) or self._open(dst_id)
        while data:
            index = space.slot(vaddr)
            known = index is not None
            if index is None:
                index = space.make_slot(vaddr, len(data))
            taken = min(len(data), space.ends[index] - vaddr)
            if known:
                self._rewritten.append((dst_id, (vaddr, vaddr + taken)))
            _write(space.fd, data[:taken], space.offsets[index] + vaddr - space.starts[index])
            vaddr += taken
            data = data[taken:]

    def forget(self, dst_id: int) -> None:
        """Free all pages of an address space that is gone; another one may get its dst_id."""
        space = self._spaces.pop(dst_id, None)
        if space is not None:
            os.close(space.fd)

    def read(self, dst_id: int, vaddr: int, view: memoryview) -> None:
        """Fill `view` with the content of pages. Raises ImageError for a page that never came."""
        for fd, offset, size in self._pieces(dst_id, vaddr, vaddr + len(view)):
            whole.pread(fd, view[:size], offset)
            view = view[size:]

    def give_back(self, dst_id: int, vaddr: int, end: int) -> None:
        """Free the RAM of the pages [vaddr, end), which read as zeros from then on.

        Raises ImageError for a page that never came, with nothing freed.
        """
        self.check(dst_id, vaddr, end)
        for fd, offset, size in self._pieces(dst_id, vaddr, end):
            punch_hole(fd, offset, size)

    def hot(self) -> LazyRanges:
        """Return the addresses that were overwritten last: the container writes them all the time.

        They are the MAX_HOT ranges that were stored most recently for addresses already in the
        store.
        """
        found: defaultdict[int, list[Range]] = defaultdict(list)
        for dst_id, written in self._rewritten:
            found[dst_id].append(written)
        return {dst_id: ranges.union(written, []) for dst_id, written in found.items()}

    def descriptors(self) -> list[int]:
        """Return the descriptors of the files that hold the pages."""
        return [space.fd for space in self._spaces.values()]

    def index(self) -> Index:
        """Return where each page is kept, for a store of another process (`share`)."""
        return self._spaces

    def share(self, index: Index, descriptors: Sequence[int]) -> None:
        """Have the pages of another process's store, in this store, which is empty.

        `index` and `descriptors` are copies of that store's. Neither store may change then.
        """
        for (dst_id, space), fd in zip(index.items(), descriptors, strict=True):
            self._spaces[dst_id] = dataclasses.replace(space, fd=fd)

    def check(self, dst_id: int, vaddr: int, end: int) -> None:
        """Raise ImageError unless every page of [vaddr, end) is in the store."""
        for _ in self._pieces(dst_id, vaddr, end):
            pass

    def _pieces(self, dst_id: int, vaddr: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (descriptor, offset, bytes) of where the pages [vaddr, end) are kept.

        The parts come in rising order of address. Raises ImageError for a page that never came.
        """
        space = self._spaces.get(dst_id)
        while vaddr < end:
            index = space.slot(vaddr) if space else None
            if space is None or index is None:
                raise ImageError(f"the page at {vaddr:#x} of address space {dst_id:#x} never came")
            size = min(end, space.ends[index]) - vaddr
            yield space.fd, space.offsets[index] + vaddr - space.starts[index], size
            vaddr += size

    def _open(self, dst_id: int) -> _Space:
        path = self._directory / f"store-{dst_id}"
        space = _Space(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        path.unlink()
        self._spaces[dst_id] = space
        return space


def _write(fd: int, data: memoryview, offset: int) -> None:
    try:
        whole.pwrite(fd, data, offset)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise ImageError(
            "the page store is full: the container's memory grew too much during the move"
        ) from error
