"""Undo a move that failed before the kill: the container goes on where it is, the target forgets it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from checkpoint.criu import rescue
from checkpoint.errors import CheckpointError, ContainerNotFound, ContainerNotRunning
from checkpoint.host import processes
from migrate import causes, protocol
from migrate.context import Context
from migrate.errors import CannotTrack, ContainerEnded, Interrupted, MigrateError, NotConverging
from migrate.phases.evidence import keep_logs
from migrate.state import State

LOOK_AGAIN_S = 0.01
#: Ends that somebody asked for: of these no logs are kept.
WANTED = (Interrupted, NotConverging, CannotTrack)


def rolled_back(move: Context, error: BaseException) -> MigrateError:
    """Undo what the move has done, and look at the container. Returns what is told of the error that ended the move."""
    left = roll_back(move, failed=not isinstance(error, WANTED))
    where = _where(move)
    if where is None:
        return causes.marked(ContainerEnded(causes.failure(error)), error)
    return causes.rolled_back(error, left, where)


def roll_back(move: Context, *, failed: bool) -> list[str]:
    """Thaw first, clean the target second. Returns what could not be undone, for people; nothing is raised.

    `failed`: nobody wanted this end, so logs are kept.
    """
    left: list[str] = []
    may_be_held = move.state in (State.FROZEN, State.HELD)
    move.advance(State.ROLLING_BACK)
    thawed_by_criu = move.dump is None or move.dump.criu_lives()
    if move.dump is not None:
        move.dump.refuse()  # makes CRIU thaw the container and unlock its connections
        if not move.dump.end(move.options.limits.end_s):
            left.append("CRIU did not end, and was killed")
            thawed_by_criu = False
    with _noted(left, "not undone on the source"):
        move.undo.close()
    with _noted(left, "not undone on the source"):
        move.awake.close()
    with _noted(left, "not undone on the source"):
        if move.image_stream is not None:
            move.image_stream.close()  # the agent is ours alone again
    if not thawed_by_criu:
        left += _unlock(move)
    if failed:
        keep_logs(move)
    left += _abort(move, may_be_held=may_be_held)
    with _noted(left, "not cleaned up on the source"):
        move.tidy.close()
    for line in left:
        move.note(line)
    move.advance(State.ROLLED_BACK)
    return left


@contextlib.contextmanager
def _noted(left: list[str], what: str) -> Iterator[None]:
    """Go on after a failure: the rest must be undone all the same."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (told; what follows is worth more than its reason)
        left.append(f"{what}: {error or type(error).__name__}")


def _abort(move: Context, *, may_be_held: bool) -> list[str]:
    """Have the target forget the container. Returns what may be left there."""
    host = move.target.hostname
    try:
        move.agent.request(protocol.Abort(), timeout_s=move.options.limits.abort_s)
    except Exception as error:  # noqa: BLE001  (as in _noted)
        if may_be_held:
            return [
                f"{host} did not confirm that it dropped what it may have restored ({error}): 'migratectl recover"
                f" {move.migration_id} --abort --on {move.connection.destination}' drops that"
            ]
        # An agent without a channel undoes everything by itself.
        move.note(f"{host} undoes by itself what it made; it did not confirm that ({error})")
    return []


def _unlock(move: Context) -> list[str]:
    """CRIU is gone, by a failure that it undid itself or by one that killed it; then what it did is still there.

    Only what this move's CRIU has locked is unlocked: before that a lock is somebody else's.
    """
    if move.dump is None or not move.dump.locked_network:
        return []
    try:
        found = rescue.unlock(processes.in_pid_namespace_of(move.container.pid))
    except (CheckpointError, OSError) as error:
        return [f"CRIU died, and its lock of the container's network may still be there ({error})"]
    if found and not move.edits.nftables:
        return [
            "CRIU died; its rules (iptables, chain CRIU) may still lock the container's network"
        ]
    return ["connections that were in use when CRIU died may have been cut"] if found else []


def _where(move: Context) -> str | None:
    """Look at the container on the source. Returns where it is, for people; None if it has ended."""
    deadline = time.monotonic() + move.options.limits.thaw_s
    while (state := move.init.state()) in processes.STOPPED and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN_S)
    if state in processes.ENDED:
        return None
    if state in processes.STOPPED:
        return f"the container is on the source, but its process {move.init.pid} is stopped"
    try:
        move.runtime.inspect(move.container.name)
    except (ContainerNotFound, ContainerNotRunning) as error:
        return f"the container's processes run on the source, but its engine says: {error}"
    except Exception as error:  # noqa: BLE001  (its process runs: that was seen)
        move.note(
            f"the engine could not be asked about the container: {error or type(error).__name__}"
        )
    return "the container runs on the source, as before"
