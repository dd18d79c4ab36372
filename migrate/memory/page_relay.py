"""The relay of pages from CRIU to the agent: a page server whose store is on the target."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator

from checkpoint.criu import page_server
from checkpoint.errors import CheckpointError
from checkpoint.host.worker import Worker
from migrate.memory.page_map import Dumped
from migrate.wire.failures import AgentGone


class PageRelay:
    """A page server for one CRIU session, which runs in a thread until `join`."""

    def __init__(
        self,
        sock: socket.socket,
        layout: struct.Struct,
        sink: page_server.Sink,
        flush: Callable[[], None],
        has_parent: Callable[[int], bool] = page_server.no_parent,
    ) -> None:
        """Take CRIU's pages from `sock` to `sink`; page_server.serve has the other arguments.

        `flush` runs before CRIU is told that all pages are safe; it returns when SSH has them all.
        """
        self._sock, self._layout = sock, layout
        self._sink, self._flush, self._has_parent = sink, flush, has_parent
        self.failure: Exception | None = None
        self._worker = Worker("page relay", self._serve)

    def join(self) -> None:
        """Wait until CRIU closes the session. Raises the error with which the thread failed."""
        self._worker.result()

    def _serve(self) -> None:
        try:
            page_server.serve(
                self._sock,
                self._layout,
                self._sink,
                before_close=self._flush,
                has_parent=self._has_parent,
            )
        except Exception as error:
            # Set before CRIU can notice and fail: `relayed` then raises this error and not CRIU's.
            self.failure = error
            # CRIU must not wait for an answer that will never come.
            self._sock.close()
            raise


@contextlib.contextmanager
def relayed(pages: socket.socket, criu_version: int, dumped: Dumped) -> Iterator[None]:
    """Serve CRIU's page-server socket while the block runs the session, then until CRIU closes it.

    `pages` is the source's end of that socket; what comes goes to `dumped`. If CRIU fails because
    the link to the agent is lost, AgentGone is raised in place of CRIU's error.
    """
    relay = PageRelay(
        pages, page_server.wire_struct(criu_version), dumped, dumped.flush, dumped.has_parent
    )
    try:
        yield
    except CheckpointError as error:
        if isinstance(relay.failure, AgentGone):
            raise relay.failure from error
        raise
    relay.join()
