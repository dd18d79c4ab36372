"""Stop-copy: all memory is sent by CRIU's dump, while the container is frozen."""

from __future__ import annotations

from checkpoint.criu.page_server import no_parent
from checkpoint.criu.roles import DumpRole
from checkpoint.memory.ranges import Range
from migrate.memory.batches import PageBatches
from migrate.memory.copying import run_dump
from migrate.memory.page_map import Dumped
from migrate.memory.relayed import relayed
from migrate.migration import Migration
from migrate.wire import protocol


class StopCopy:
    """The way to send memory without rounds: pages go straight into the target's image files."""

    by_criu = True

    def __init__(self, migration: Migration) -> None:
        assert migration.pages is not None
        self._migration = migration
        self.batches = PageBatches(migration.pages, final=True)
        self._dumped = Dumped(self.batches, no_parent, last=True)

    def dump(self, dump: DumpRole) -> None:
        dumped = self._dumped
        with relayed(dump.pages, self._migration, dumped, self.batches.flush, dumped.has_parent):
            run_dump(dump, self._migration)

    def send_last(self, pids: list[int]) -> None:
        """Send a page map for each address space without a page; `dump` has sent all pages.

        CRIU needs an image of these on the target, too.
        """
        for image, pages in self._dumped.images().items():
            if not pages:
                self._migration.agent.stream(protocol.PageMap(dst_id=image, extents=()))

    def images(self) -> dict[int, list[Range]]:
        return self._dumped.images()
