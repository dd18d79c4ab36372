"""The roll-back of a migration that failed before the kill: the source's container goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from checkpoint.criu import rescue
from checkpoint.engines import restart_policy
from checkpoint.errors import CheckpointError, ContainerNotFound, ContainerNotRunning, reason
from checkpoint.host import proc, processes
from migrate.agent import asking, control
from migrate.decisions import causes
from migrate.decisions.state import State
from migrate.decisions.takeover import Told
from migrate.errors import (
    CannotTrack,
    ContainerEnded,
    Interrupted,
    MigrateError,
    NotConverging,
)
from migrate.migration import Migration
from migrate.phases.evidence import keep_logs
from migrate.phases.without_agent import tell
from migrate.wire import protocol

LOOK_AGAIN_S = 0.01
#: What the target says if it holds no copy of the container any more.
DROPPED = (Told.OBEYED, Told.ABSENT)
#: How long CRIU may take to thaw the container when the freeze's time is over: less than GRACE_S of
#: the guardian, which ends this process after that.
THAW_S = 0.2
#: Errors by which a choice of the user ends a migration: no logs are kept for them.
WANTED = (Interrupted, NotConverging, CannotTrack)


def rolled_back(migration: Migration, error: BaseException) -> MigrateError:
    """Undo what the migration has done, look at the container, and return the error to report.

    `error` is what ended the migration. The error to report says where the container is now, and
    what could not be undone; ContainerEnded if the container has ended.
    """
    left = roll_back(migration, failed=not isinstance(error, WANTED))
    where = _where(migration)
    if where is None:
        ended = ContainerEnded(causes.failure(error), started_again=_started_again(migration))
        return causes.marked(ended, error)
    return causes.rolled_back(error, left, where)


def roll_back(migration: Migration, *, failed: bool) -> list[str]:
    """Thaw the container, then clean up the target and the source.

    Returns what could not be undone, as lines for people. No failure of a step is raised. `failed`
    means that this end is not the user's choice, so that logs are kept.
    """
    left: list[str] = []
    may_be_held = migration.state in (State.FROZEN, State.HELD)
    migration.target.agent.settle()
    migration.advance(State.ROLLING_BACK)
    thawed_by_criu = migration.dump.criu_lives()
    migration.dump.refuse()  # makes CRIU thaw the container and unlock its connections
    if not migration.dump.end(_end_limit_s(migration)):
        left.append("CRIU did not end, and was killed")
        thawed_by_criu = False
    left += _see_unlocked(migration) if thawed_by_criu else _unlock(migration)
    migration.guardian.freed()
    not_undone: list[str] = []
    with _noted(not_undone, "not undone on the source"):
        migration.undo.close()
    left += not_undone
    with _noted(left, "not undone on the source"):
        migration.awake.close()
    if failed:
        keep_logs(migration)
    not_dropped = _abort(migration, may_be_held=may_be_held)
    left += not_dropped
    with _noted(left, "not cleaned up on the source"):
        migration.tidy.close()
    for line in left:
        migration.note(line)
    if not_dropped or not_undone:
        # The journal stays where it is: the guardian goes on telling the target to drop the copy,
        # and the next start goes on undoing.
        migration.progress.advance(State.ROLLED_BACK)
    else:
        migration.advance(State.ROLLED_BACK)
    return left


def _end_limit_s(migration: Migration) -> float:
    """Return how long CRIU may take to thaw the container and to end, until it is killed."""
    left_s = migration.guardian.left_s()
    end_s = migration.options.limits.end_s
    return end_s if left_s is None else min(end_s, max(THAW_S, left_s))


@contextlib.contextmanager
def _noted(left: list[str], what: str) -> Iterator[None]:
    """Run the block; if it fails, append `what` and the error to `left`, and go on.

    The rest must be undone all the same.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001  (reported; what follows matters more)
        left.append(f"{what}: {reason(error)}")


def _abort(migration: Migration, *, may_be_held: bool) -> list[str]:
    """Have the target drop the container and all that was made for it.

    Returns what may be left on the target, as lines for people. `may_be_held`: the target may hold
    a restored container.
    """
    host = migration.target.hostname
    try:
        migration.target.agent.request(protocol.Abort(), timeout_s=migration.options.limits.abort_s)
    except Exception as error:  # noqa: BLE001  (as in _noted)
        answer = tell(migration, control.ABORT_PROVED)
        if answer is not None and asking.TOLD[answer.outcome] in DROPPED:
            return []
        if may_be_held:
            return [
                f"{host} did not confirm that it dropped what it may have restored ({error}): a"
                " process on this host goes on telling it for ten minutes, and 'migratectl recover"
                f" {migration.migration_id}' does after that"
            ]
        # An agent that holds no container undoes everything by itself, when its channel ends or
        # when it has waited for another one.
        migration.note(f"{host} undoes by itself what it made; it did not confirm that ({error})")
    return []


def _see_unlocked(migration: Migration) -> list[str]:
    """Remove a lock of the container's network that CRIU has left although it ended by itself.

    A CRIU that fails to remove its lock does not tell (CRIU criu/net.c, network_unlock). Returns
    what may be wrong, as lines for people.
    """
    if not migration.dump.locked_network or migration.source.init.state() in processes.ENDED:
        return []
    try:
        if rescue.unlock_network(proc.path(migration.source.container.pid, "ns", "net")):
            migration.note("CRIU had left the container's network locked")
    except (CheckpointError, OSError) as error:
        return [f"it could not be seen whether CRIU has unlocked the network ({reason(error)})"]
    return []


def _unlock(migration: Migration) -> list[str]:
    """Unlock the container's network after a CRIU that failed or was killed.

    If CRIU failed, it has unlocked the network by itself; if it was killed, its locks are still in
    place. They are removed only if this migration's CRIU came to lock the network: otherwise a lock
    is somebody else's. Returns what may be wrong with connections, as lines for people.
    """
    if not migration.dump.locked_network:
        return []
    try:
        found = rescue.unlock(processes.in_pid_namespace_of(migration.source.container.pid))
    except (CheckpointError, OSError) as error:
        return [f"CRIU died, and its lock of the container's network may still be there ({error})"]
    if found and not migration.dump.edits.nftables:
        return [
            "CRIU died; its rules (iptables, chain CRIU) may still lock the container's network"
        ]
    return ["connections that were in use when CRIU died may have been cut"] if found else []


def _where(migration: Migration) -> str | None:
    """Look at the container on the source, and return in words for people where it is.

    Returns None if the container has ended. A stopped init gets `thaw_s` to run again.
    """
    deadline = time.monotonic() + migration.options.limits.thaw_s
    init = migration.source.init
    while (state := init.state()) in processes.STOPPED and time.monotonic() < deadline:
        time.sleep(LOOK_AGAIN_S)
    if state in processes.ENDED:
        return None
    if state in processes.STOPPED:
        return f"the container is on the source, but its process {init.pid} is stopped"
    try:
        migration.source.engine.inspect(migration.source.container.name)
    except (ContainerNotFound, ContainerNotRunning) as error:
        return f"the container's processes run on the source, but its engine says: {error}"
    except Exception as error:  # noqa: BLE001  (its process runs: that was seen)
        migration.note(f"the engine could not be asked about the container: {reason(error)}")
    return "the container runs on the source, as before"


def _started_again(migration: Migration) -> bool:
    """Return whether the engine has started the container again, which takes it a moment."""
    container, engine = migration.source.container, migration.source.engine
    until_s = time.monotonic() + migration.options.limits.thaw_s
    while restart_policy.restarts(container) and time.monotonic() < until_s:
        with contextlib.suppress(CheckpointError, OSError):
            engine.inspect(container.name)
            return True
        time.sleep(LOOK_AGAIN_S)
    return False
