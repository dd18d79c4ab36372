"""Pages on their way to the agent, gathered into batches of about 1 MiB without zero pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from checkpoint.criu.page_server import PAGE_SIZE, PE_PRESENT, dst_id_of_process
from migrate.memory import batch
from migrate.memory.batch import MAX_PAGES, PageExtent

#: The most extents of one batch, whose header is then well under the bound of a frame.
MAX_EXTENTS = 1024


class Carrier(Protocol):
    """The interface through which full batches are sent (migrate/memory/channels.py)."""

    def buffer(self) -> memoryview:
        """Return an unused buffer to be filled."""

    def submit(
        self,
        extents: Sequence[PageExtent],
        buffer: memoryview,
        used: int,
        *,
        final: bool,
        forget: Sequence[int],
    ) -> None:
        """Take a batch and the buffer with its bytes; see PageChannels.submit."""

    def drain(self) -> None:
        """Wait until all batches have gone out."""


class PageBatches:
    """A gatherer of extents, which passes a batch on to the carrier when it is full.

    `final` pages go into image files, others into the page store. `progress` is called after each
    batch with the bytes of pages that were passed on so far, zero pages not counted.
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        final: bool = False,
        progress: Callable[[int], None] = lambda data_bytes: None,
    ) -> None:
        self._carrier, self._final, self._progress = carrier, final, progress
        self._extents: list[PageExtent] = []
        self._pages_gathered = 0
        self._buffer = carrier.buffer()
        self._used = 0
        self._forget: list[int] = []
        self.pages = 0
        self.pages_zero = 0
        self.data_bytes = 0

    def add(self, process: int, vaddr: int, data: memoryview) -> None:
        """Add pages of a process. `process` is the pid in the process's own pid namespace."""
        self.extent(dst_id_of_process(process), vaddr, len(data) // PAGE_SIZE, PE_PRESENT, data)

    def forget(self, dst_id: int) -> None:
        """Have the target drop all pages of an address space that ended, by its dst_id.

        Pages of that dst_id that were added before are dropped; those that are added later are
        kept. The next batch carries the order, at the latest the one of `flush`.
        """
        if self._extents:
            self.pass_on()
        self._forget.append(dst_id)

    def extent(self, dst_id: int, vaddr: int, pages: int, flags: int, data: memoryview) -> None:
        """Add an extent in the terms of CRIU's page server (checkpoint/criu/page_server.py).

        `data` is copied, but for zero pages, which are only counted; it is empty for pages that
        bring no bytes.
        """
        if not data:
            self._add(dst_id, vaddr, pages, flags, zero=False)
            return
        self.pages += pages
        for first, count, zero in batch.split_zeros(data):
            piece = data[first * PAGE_SIZE : (first + count) * PAGE_SIZE]
            if not zero and self._used + len(piece) > len(self._buffer):
                self.pass_on()
            self._add(dst_id, vaddr + first * PAGE_SIZE, count, flags, zero=zero)
            if zero:
                self.pages_zero += count
            else:
                self._buffer[self._used : self._used + len(piece)] = piece
                self._used += len(piece)

    def flush(self) -> None:
        """Send what is gathered, and wait until everything was handed to SSH."""
        self.pass_on()
        self._carrier.drain()

    def pass_on(self) -> None:
        """Pass on what is gathered, without waiting until it is sent."""
        if self._extents or self._forget:
            self.data_bytes += self._used
            self._carrier.submit(
                self._extents, self._buffer, self._used, final=self._final, forget=self._forget
            )
            self._buffer = self._carrier.buffer()
            self._extents, self._forget, self._used, self._pages_gathered = [], [], 0, 0
            self._progress(self.data_bytes)

    def _add(self, dst_id: int, vaddr: int, pages: int, flags: int, *, zero: bool) -> None:
        there = pages if flags & PE_PRESENT else 0
        if len(self._extents) == MAX_EXTENTS or self._pages_gathered + there > MAX_PAGES:
            self.pass_on()
        self._extents.append(PageExtent(dst_id, vaddr, pages, flags, zero))
        self._pages_gathered += there
