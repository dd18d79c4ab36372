"""Carries the pages CRIU dumps to the agent as they come: a page server whose store is on the other host."""

from __future__ import annotations

import socket
import struct
import threading

from checkpoint.criu import page_wire
from migrate.page_batches import PageBatches


class PageRelay:
    """Runs in a thread from `start` to `join`."""

    def __init__(self, sock: socket.socket, layout: struct.Struct, batches: PageBatches) -> None:
        self._sock, self._layout, self._batches = sock, layout, batches
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._serve, name="page relay", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait for CRIU's CLOSE. Re-raises what went wrong in the thread."""
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _serve(self) -> None:
        try:
            page_wire.serve(self._sock, self._layout, self._batches, before_close=self._batches.flush)
        except Exception as error:  # noqa: BLE001  (re-raised by join)
            self.failure = error
            # CRIU must not wait for an answer that will never come.
            self._sock.close()
