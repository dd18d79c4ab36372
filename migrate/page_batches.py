"""Pages on their way to the agent, gathered into batches of about 1 MiB with zero pages left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from checkpoint.criu.page_wire import PAGE_SIZE, PE_PRESENT, PIECE_BYTES, TYPE_PROCESS
from checkpoint.images import batch
from migrate import protocol
from migrate.agent.client import AgentClient
from transport.throttle import RateLimit

#: Keeps a batch's header well under the frame's bound.
MAX_EXTENTS = 1024


class PageBatches:
    """Collects extents; sends a batch when it is full. `final` pages are images, others go to the store."""

    def __init__(
        self,
        agent: AgentClient,
        limit: RateLimit,
        *,
        final: bool = False,
        progress: Callable[[int], None] = lambda sent_bytes: None,
    ) -> None:
        self._agent, self._final, self._progress = agent, final, progress
        self.limit = limit
        self._extents: list[list[Any]] = []
        self._buffer = memoryview(bytearray(PIECE_BYTES))
        self._used = 0
        self.count = 0
        self.pages = 0
        self.pages_zero = 0
        self.sent_bytes = 0

    def add(self, process: int, vaddr: int, data: memoryview) -> None:
        """Add pages of a process."""
        self.extent(process << 8 | TYPE_PROCESS, vaddr, len(data) // PAGE_SIZE, PE_PRESENT, data)

    def extent(self, dst_id: int, vaddr: int, pages: int, flags: int, data: memoryview) -> None:
        """Add an extent in the terms of CRIU's page server (checkpoint/criu/page_wire.py)."""
        if not data:
            self._add(dst_id, vaddr, pages, flags, zero=False)
            return
        self.pages += pages
        for first, count, zero in batch.split_zeros(data):
            piece = data[first * PAGE_SIZE : (first + count) * PAGE_SIZE]
            if not zero and self._used + len(piece) > len(self._buffer):
                self.flush()
            self._add(dst_id, vaddr + first * PAGE_SIZE, count, flags, zero=zero)
            if zero:
                self.pages_zero += count
            else:
                self._buffer[self._used : self._used + len(piece)] = piece
                self._used += len(piece)

    def flush(self) -> None:
        """Send what is gathered."""
        if self._extents:
            data = self._buffer[: self._used]
            message = protocol.Pages(
                extents=self._extents, encoding=batch.RAW, digest=batch.digest_of(data), final=self._final
            )
            self.limit.take(len(data))
            self._agent.stream(message, [data])
            self.count += 1
            self.sent_bytes += self._used
            self._extents, self._used = [], 0
            self._progress(self.sent_bytes)

    def _add(self, dst_id: int, vaddr: int, pages: int, flags: int, *, zero: bool) -> None:
        if len(self._extents) == MAX_EXTENTS:
            self.flush()
        self._extents.append([dst_id, vaddr, pages, flags, zero])
