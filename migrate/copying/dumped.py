"""What CRIU says is in memory when it is told that a parent has it: pages that are there, pages that it brings."""

from __future__ import annotations

from collections.abc import Callable

from checkpoint.criu.page_wire import PAGE_SIZE, PE_PARENT, PE_PRESENT, TYPE_PROCESS
from checkpoint.images.mappings import may_be_lazy
from checkpoint.memory import ranges
from checkpoint.memory.ranges import Range
from migrate import protocol
from migrate.context import Context
from migrate.page_batches import PageBatches
from migrate.values import MapExtent

#: Keeps a message's header well under the frame's bound.
MAX_EXTENTS = 1024


class Dumped:
    """One pre-dump, or the dump at the end: what takes CRIU's pages (page_wire.Sink). Bytes go to the target's store.

    `in_parent` tells of an image whether the parent has it. Memory that processes share is of the last one only.
    """

    def __init__(
        self, batches: PageBatches, in_parent: Callable[[int], bool], *, last: bool
    ) -> None:
        self._batches, self._in_parent, self._last = batches, in_parent, last
        self._images: dict[int, list[Range]] = {}
        self._holes: dict[int, list[Range]] = {}
        self.sent_pages = 0

    def has_parent(self, dst_id: int) -> bool:
        """CRIU begins an image."""
        if self._wanted(dst_id):
            self._images.setdefault(dst_id, [])
        return self._in_parent(dst_id)

    def extent(self, dst_id: int, vaddr: int, pages: int, flags: int, data: memoryview) -> None:
        if not self._wanted(dst_id):
            return
        found = (vaddr, vaddr + pages * PAGE_SIZE)
        self._images.setdefault(dst_id, []).append(found)
        if data:
            self._batches.extent(dst_id, vaddr, pages, PE_PRESENT, data)
            self.sent_pages += pages
        elif flags & PE_PARENT:
            self._holes.setdefault(dst_id, []).append(found)

    def images(self) -> dict[int, list[Range]]:
        """By image, all pages that are there."""
        return {image: ranges.union(found, []) for image, found in self._images.items()}

    def holes(self, dst_id: int) -> list[Range]:
        """Pages that CRIU leaves to the parent."""
        return ranges.union(self._holes.get(dst_id, []), [])

    def hole_pages(self) -> int:
        return sum(map(ranges.size, self._holes.values())) // PAGE_SIZE

    def _wanted(self, dst_id: int) -> bool:
        return self._last or dst_id & 0xFF == TYPE_PROCESS


def send_page_maps(move: Context, images: dict[int, list[Range]]) -> None:
    """Tell the target of which of the pages in its store each image is made up. Raises ImageError.

    An image without a page is told of, too: CRIU asks for the image of every shared mapping, also of one that
    nobody has written to.
    """
    for dst_id, present in images.items():
        lazy = ranges.intersection(present, _may_be_lazy(move, dst_id))
        extents = [MapExtent(start, (end - start) // PAGE_SIZE, True) for start, end in lazy]
        eager = ranges.difference(present, lazy)
        extents += [MapExtent(start, (end - start) // PAGE_SIZE, False) for start, end in eager]
        extents.sort()
        for first in range(0, max(1, len(extents)), MAX_EXTENTS):
            move.agent.stream(
                protocol.PageMap(dst_id=dst_id, extents=tuple(extents[first : first + MAX_EXTENTS]))
            )


def _may_be_lazy(move: Context, dst_id: int) -> list[Range]:
    if dst_id & 0xFF != TYPE_PROCESS or not move.target.lazy_pages:
        return []
    return may_be_lazy(move.images / f"mm-{dst_id >> 8}.img")
