"""Stop-copy: all memory is sent by CRIU's dump, while the container is frozen."""

from __future__ import annotations

from checkpoint.criu.page_server import no_parent
from checkpoint.memory.ranges import Range
from migrate.memory.batches import PageBatches
from migrate.memory.copying import Ends, MayBeLazy, run_dump
from migrate.memory.page_map import Dumped
from migrate.memory.page_relay import relayed
from migrate.wire import protocol


class StopCopy:
    """The way to send memory without rounds: pages go straight into the target's image files."""

    by_criu = True
    untracked = None

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self.batches = PageBatches(ends.pages, into_images=True)
        self._dumped = Dumped(self.batches, no_parent, last=True)

    def dump(self) -> None:
        ends = self._ends
        with relayed(ends.dump.pages, ends.criu_version, self._dumped):
            run_dump(ends)

    def send_last(self, pids: list[int], may_be_lazy: MayBeLazy) -> None:
        """Send a page map for each address space without a page; `dump` has sent all pages.

        CRIU needs an image of these on the target, too.
        """
        for dst_id, pages in self._dumped.found_pages().items():
            if not pages:
                self._ends.agent.stream(protocol.PageMap(dst_id=dst_id, extents=()))

    def found_pages(self) -> dict[int, list[Range]]:
        return self._dumped.found_pages()
