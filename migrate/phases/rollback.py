"""Undo a move that failed before the kill: the container goes on where it is, the target forgets it."""

from __future__ import annotations

from checkpoint.criu import rescue
from checkpoint.errors import CheckpointError
from checkpoint.host import processes
from migrate import protocol
from migrate.agent.client import AgentFailed, AgentGone
from migrate.context import Context
from migrate.state import State


def roll_back(move: Context) -> list[str]:
    """Thaw first, clean the target second. Returns what could not be cleaned, for the report."""
    left: list[str] = []
    move.advance(State.ROLLING_BACK)
    thawed_by_criu = move.dump is None or move.dump.criu_lives()
    # Refusing the gate makes CRIU thaw the container and unlock its connections.
    move.undo.close()
    move.awake.close()
    if move.image_stream is not None:
        move.image_stream.close()  # the agent is ours alone again
    if not thawed_by_criu:
        left += _unlock(move)
    try:
        move.agent.request(protocol.Abort())
    except (AgentGone, AgentFailed, protocol.ProtocolError) as error:
        # An agent without a channel undoes everything by itself, unless it holds a restored container.
        left.append(f"the target did not confirm the roll-back ({error})")
    try:
        move.tidy.close()
    except (CheckpointError, OSError) as error:
        left.append(f"not cleaned up here: {error}")
    for line in left:
        move.note(line)
    move.advance(State.ROLLED_BACK)
    return left


def _unlock(move: Context) -> list[str]:
    """CRIU is gone, by a failure that it undid itself or by one that killed it; then what it did is still there."""
    try:
        found = rescue.unlock(processes.in_pid_namespace_of(move.container.pid))
    except (CheckpointError, OSError) as error:
        return [f"CRIU died, and its lock of the container's network may still be there ({error})"]
    if found and not move.edits.nftables:
        return ["CRIU died; its rules (iptables, chain CRIU) may still lock the container's network"]
    return ["connections that were in use when CRIU died may have been cut"] if found else []
