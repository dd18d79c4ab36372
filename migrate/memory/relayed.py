"""The page server of one CRIU session, whose pages go to the agent."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

from checkpoint.criu import page_server
from checkpoint.errors import CheckpointError
from migrate.errors import AgentGone
from migrate.memory.page_relay import PageRelay
from migrate.migration import Migration


@contextlib.contextmanager
def relayed(
    pages: socket.socket,
    migration: Migration,
    sink: page_server.Sink,
    flush: Callable[[], None],
    has_parent: Callable[[int], bool] = page_server.no_parent,
) -> Iterator[None]:
    """Serve CRIU's page-server socket while the block runs the session, then until CRIU closes it.

    `pages` is the source's end of that socket; `sink`, `flush` and `has_parent` are as in
    PageRelay. If CRIU fails because the link to the agent is lost, AgentGone is raised in place
    of CRIU's error.
    """
    assert migration.source.criu_version is not None
    relay = PageRelay(
        pages, page_server.wire_struct(migration.source.criu_version), sink, flush, has_parent
    )
    relay.start()
    try:
        yield
    except CheckpointError as error:
        if isinstance(relay.failure, AgentGone):
            raise relay.failure from error
        raise
    relay.join()
