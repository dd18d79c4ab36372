"""The page list of a CRIU dump: pages that CRIU sends, and pages that it leaves to a parent.

For a page that the parent image has already, CRIU sends only an entry with PE_PARENT, a hole. For
other pages it sends the bytes too, which go on to the target.
"""

from __future__ import annotations

from collections.abc import Callable

from checkpoint.criu.page_server import PAGE_SIZE, PE_PARENT, PE_PRESENT, PS_TYPE_PID
from checkpoint.memory import ranges
from checkpoint.memory.ranges import Range
from migrate.agent.client import AgentClient
from migrate.memory.batches import PageBatches
from migrate.memory.copying import MayBeLazy
from migrate.wire import protocol
from migrate.wire.values import MapExtent

#: The most extents of one message: its header is then well under the frame's bound.
MAX_EXTENTS = 1024


class Dumped:
    """The pages that CRIU reports in one session of its page server (page_server.Sink).

    Their bytes go into `batches`. `in_parent` returns, for a dst_id, whether CRIU may leave pages
    of that address space to the parent image. `last`: the session is the dump in the freeze. Any
    other session is a pre-dump, whose shared memory is ignored.
    """

    def __init__(
        self, batches: PageBatches, in_parent: Callable[[int], bool], *, last: bool
    ) -> None:
        self._batches, self._in_parent, self._last = batches, in_parent, last
        self._found: dict[int, list[Range]] = {}
        self._holes: dict[int, list[Range]] = {}
        self.sent_pages = self._extents = 0

    def has_parent(self, dst_id: int) -> bool:
        """Return whether the parent has an address space; CRIU asks when it begins to send one."""
        if self._wanted(dst_id):
            self._found.setdefault(dst_id, [])
        return self._in_parent(dst_id)

    def extent(self, dst_id: int, vaddr: int, pages: int, flags: int, data: memoryview) -> None:
        self._extents += 1
        if not self._wanted(dst_id):
            return
        found = (vaddr, vaddr + pages * PAGE_SIZE)
        self._found.setdefault(dst_id, []).append(found)
        if data:
            self._batches.extent(dst_id, vaddr, pages, PE_PRESENT, data)
            self.sent_pages += pages
        elif flags & PE_PARENT:
            self._holes.setdefault(dst_id, []).append(found)

    def flush(self) -> None:
        """Send what has come so far, and wait until everything was handed to SSH."""
        self._batches.flush()

    def extents(self) -> int:
        """Return how many extents have come so far, with those that are ignored."""
        return self._extents

    def found_pages(self) -> dict[int, list[Range]]:
        """Return all pages that CRIU found, by address space."""
        return {dst_id: ranges.union(found, []) for dst_id, found in self._found.items()}

    def holes(self, dst_id: int) -> list[Range]:
        """Return the pages of an address space that CRIU leaves to the parent."""
        return ranges.union(self._holes.get(dst_id, []), [])

    def hole_pages(self) -> int:
        return sum(map(ranges.size, self._holes.values())) // PAGE_SIZE

    def _wanted(self, dst_id: int) -> bool:
        return self._last or dst_id & 0xFF == PS_TYPE_PID


def send_page_maps(
    agent: AgentClient, found_pages: dict[int, list[Range]], may_be_lazy: MayBeLazy
) -> None:
    """Send the page maps: which pages of the target's store make up each address space.

    They say of each page whether CRIU can restore it lazily. An address space without a page has a
    page map, too: CRIU asks for the image of every shared mapping, also of one that nobody has
    written to. Raises ImageError if a process's mm image is damaged.
    """
    for dst_id, present in found_pages.items():
        is_process = dst_id & 0xFF == PS_TYPE_PID
        lazy = ranges.intersection(present, may_be_lazy(dst_id >> 8)) if is_process else []
        extents = [MapExtent(start, (end - start) // PAGE_SIZE, True) for start, end in lazy]
        eager = ranges.difference(present, lazy)
        extents += [MapExtent(start, (end - start) // PAGE_SIZE, False) for start, end in eager]
        extents.sort()
        for first in range(0, max(1, len(extents)), MAX_EXTENTS):
            agent.stream(
                protocol.PageMap(dst_id=dst_id, extents=tuple(extents[first : first + MAX_EXTENTS]))
            )
