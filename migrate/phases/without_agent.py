"""The word to the target when its agent is gone: to whatever holds the container there.

That is the agent, if only the connection was lost, or its successor (migrate/agent/successor.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from migrate.agent import asking
from migrate.migration import Migration
from migrate.wire import protocol
from migrate.wire.failures import AgentFailed, AgentGone
from migrate.wire.message import ProtocolError
from transport.errors import TransportError

#: What is raised if the target is not known to have done what it was told.
UNTOLD = (TransportError, AgentGone, AgentFailed, ProtocolError, OSError, ValueError)


def tell(
    migration: Migration, word: str, frames: Sequence[tuple[int, bytes]] = ()
) -> protocol.Recovered | None:
    """Send a word of control.py to what holds the container on the target, and return the answer.

    `frames` go with GO. The connection that is there is tried first, then a new one. Returns None
    if the target cannot be reached.
    """
    ways = (lambda: contextlib.nullcontext(migration.target.link), migration.target.reconnect)
    for way in ways:
        with contextlib.suppress(*UNTOLD), way() as connection:
            return asking.answer(connection, migration.migration_id, word, migration.note, frames)
    return None
