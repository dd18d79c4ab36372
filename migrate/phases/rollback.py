"""Undo a move that failed before the kill: the container goes on where it is, the target forgets it."""

from __future__ import annotations

import contextlib

from migrate import protocol
from migrate.agent.client import AgentFailed, AgentGone
from migrate.context import Context
from migrate.state import State


def roll_back(move: Context) -> list[str]:
    """Thaw first, clean the target second. Returns what could not be cleaned, for the report."""
    left: list[str] = []
    move.advance(State.ROLLING_BACK)
    # Refusing the gate makes CRIU thaw the container and unlock its connections.
    move.undo.close()
    try:
        move.agent.request(protocol.Abort(), protocol.Done)
    except (AgentGone, AgentFailed, protocol.ProtocolError) as error:
        # An agent without a channel undoes everything by itself, unless it holds a restored container.
        left.append(f"the target did not confirm the roll-back ({error})")
    with contextlib.suppress(OSError):
        move.tidy.close()
    move.advance(State.ROLLED_BACK)
    return left
