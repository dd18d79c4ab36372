"""All memory while the container is frozen, as CRIU writes it."""

from __future__ import annotations

from checkpoint.criu.session import DumpRole
from migrate.context import Context
from migrate.copying.base import run_dump
from migrate.copying.relayed import relayed
from migrate.page_batches import PageBatches


class StopCopy:
    """Nothing goes ahead."""

    def __init__(self, move: Context) -> None:
        assert move.pages is not None
        self._move = move
        self.batches = PageBatches(move.pages, final=True)

    def dump(self, dump: DumpRole) -> None:
        with relayed(dump.pages, self._move, self.batches, self.batches.flush):
            run_dump(dump, self._move)

    def send_last(self, pids: list[int]) -> None:
        """Everything went with the dump."""
