"""Carries the pages CRIU dumps to the agent, batch by batch, as they come."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any

from checkpoint.criu import page_wire
from checkpoint.criu.page_wire import PAGE_SIZE, PIECE_BYTES
from checkpoint.images import batch
from migrate import protocol
from migrate.agent.client import AgentClient

#: Keeps a batch's header well under the frame's bound.
MAX_EXTENTS = 1024


class PageRelay:
    """A page server whose store is on the other host. Runs in a thread from `start` to `join`."""

    def __init__(self, sock: socket.socket, layout: struct.Struct, agent: AgentClient) -> None:
        self._sock, self._layout, self._agent = sock, layout, agent
        self._extents: list[list[Any]] = []
        self._buffer = memoryview(bytearray(PIECE_BYTES))
        self._used = 0
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._serve, name="page relay", daemon=True)
        self.pages = 0
        self.pages_zero = 0
        self.sent_bytes = 0

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait for CRIU's CLOSE. Re-raises what went wrong in the thread."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _serve(self) -> None:
        try:
            self.pages = page_wire.serve(self._sock, self._layout, self, before_close=self._flush).pages
        except Exception as error:  # noqa: BLE001  (re-raised by join)
            self._failure = error
            # CRIU must not wait for an answer that will never come.
            self._sock.close()

    def extent(self, dst_id: int, vaddr: int, pages: int, flags: int, data: memoryview) -> None:
        """Add pages to the batch; send it when it is full."""
        if not data:
            self._add(dst_id, vaddr, pages, flags, zero=False)
            return
        for first, count, zero in batch.split_zeros(pages, data):
            piece = data[first * PAGE_SIZE : (first + count) * PAGE_SIZE]
            if not zero and self._used + len(piece) > len(self._buffer):
                self._flush()
            self._add(dst_id, vaddr + first * PAGE_SIZE, count, flags, zero=zero)
            if zero:
                self.pages_zero += count
            else:
                self._buffer[self._used : self._used + len(piece)] = piece
                self._used += len(piece)

    def _add(self, dst_id: int, vaddr: int, pages: int, flags: int, *, zero: bool) -> None:
        if len(self._extents) == MAX_EXTENTS:
            self._flush()
        self._extents.append([dst_id, vaddr, pages, flags, zero])

    def _flush(self) -> None:
        if self._extents:
            data = self._buffer[: self._used]
            message = protocol.Pages(extents=self._extents, encoding=batch.RAW, digest=batch.digest_of(data))
            self._agent.stream(message, [data])
            self.sent_bytes += self._used
            self._extents, self._used = [], 0
