"""The commit: `kill_source`, then `resume_target`, and never in another order.

From the kill on, no failure of anything optional keeps the target from its GO. Nothing of the
container is removed from the source before the target has said that it runs the container.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from checkpoint.errors import CommandFailed, RestoreLost, reason
from checkpoint.host.worker import Worker
from migrate.agent import asking, control
from migrate.decisions import causes
from migrate.decisions.state import State
from migrate.decisions.takeover import Told
from migrate.errors import LostThere, MigrateError, ResumeFailed, Undecided
from migrate.guardian.handle import in_ns
from migrate.migration import Migration
from migrate.phases.arm import Armed
from migrate.phases.evidence import keep_logs
from migrate.phases.without_agent import tell
from migrate.wire import protocol
from migrate.wire.failures import AgentFailed, AgentGone
from migrate.wire.values import LateFrame


def arm_kill(migration: Migration, armed: Armed) -> None:
    """Make ready for the kill; the migration's state is KILLING then. A roll-back undoes this.

    The source's engine is kept from reacting to the container's death (podman: its conmon is
    stopped). The guardian gets what it needs from the kill on, and the journal has the kill before
    it comes. Raises what the engine raises, ConversationLost, and OSError.
    """
    migration.source.engine.pause_monitor(migration.source.container, migration.undo)
    migration.guardian.killing(migration.dump.conversation, armed.frames)
    migration.advance(State.KILLING)


def kill_source(migration: Migration) -> None:
    """Send the source's init SIGKILL and wait until it is dead: the point of no return.

    Raises Undecided if the signal could not be sent, or if the init is not dead within `death_s`.
    If it raises anything else, the source may have been killed, too: `stranded` ends the migration
    then.
    """
    killed_ns = time.monotonic_ns()
    try:
        migration.source.init.kill()
    except OSError as error:
        raise _not_dead(migration, f"could not be sent SIGKILL ({error})") from error
    with _optional(migration, "the engine on the source may react to the container's death"):
        migration.source.end_monitor()
    # The links go down at once: if this program died now, CRIU would close the dead container's
    # sockets, and their FINs must not reach peers that the target is about to serve. A thread takes
    # them down, because that takes the kernel milliseconds.
    with _optional(migration, "the container's links on the source were not taken down"):
        _begin_links_down(migration)
    if not migration.source.init.wait_dead(limit_s := migration.options.limits.death_s):
        raise _not_dead(migration, f"was sent SIGKILL {limit_s:g} s ago and is not dead yet")
    migration.advance(State.KILLED)
    with _optional(migration, "after a power cut this host would not know of the kill"):
        Worker("journal", migration.journal.sync)
    with _optional(migration, "the report lacks the instant of the kill"):
        migration.progress.instant("source killed", "source", killed_ns)


def resume_target(migration: Migration, armed: Armed, restore_again: Callable[[], None]) -> bool:
    """Give the target its GO, and return once it runs the container. The source must be dead.

    If the target has lost what it held, `restore_again` has it hold the container once more.
    Returns whether the agent has obeyed; what holds the container in its place needs no Finish.
    Raises Undecided or ResumeFailed. After anything else `stranded` ends the migration, too.
    """
    by_agent, answer = True, None
    frames: list[tuple[int, bytes]] = []
    with _optional(migration, "frames that came in the freeze were lost; their senders try again"):
        frames = armed.frames.take()
    try:
        answer = _go_or_again(migration, frames, restore_again)
    except Undecided as error:
        _tell_successor(migration, error, frames)
        by_agent = False
    migration.advance(State.RESUMED)
    migration.guardian.freed()
    with _optional(migration, "the resume could not be entered into the report"):
        migration.awake.close()
        _settle(migration, answer)
    return by_agent


def _tell_successor(
    migration: Migration, undecided: Undecided, frames: list[tuple[int, bytes]]
) -> None:
    """Give GO once more, to what holds the container now: the agent, or what is in its place.

    Raises `undecided` if nobody says that the container runs, or what that leads to if nobody there
    holds it.
    """
    answer: protocol.Recovered | None = None
    with _optional(migration, f"GO could not be said to {migration.target.hostname} once more"):
        answer = tell(migration, control.GO, frames)
    if answer is None:
        raise undecided
    told, host = asking.TOLD[answer.outcome], migration.target.hostname
    if told is not Told.OBEYED:
        migration.note(f"{host} was told GO once more: {answer.text}")
        if told is Told.LOST:
            raise causes.marked(LostThere(host, answer.text), undecided)
        raise (told is Told.ABSENT and undecided.if_nobody_holds_it) or undecided
    migration.note(f"{undecided.what}; {answer.text}, and brings the rest of memory by itself")


def stranded(migration: Migration, error: BaseException) -> MigrateError:
    """End a migration after a kill, or a possible one, without word that the target has resumed.

    All that the source has of the container stays on the source: its files, its network, and its
    engine's record of it. The engine shows the container as stopped and does not start it again by
    itself. Returns the error to report to the user, which is `error` itself if that is Undecided or
    ResumeFailed.
    """
    with _optional(migration, "the source's processors are kept awake until this program ends"):
        migration.awake.close()
    with _optional(migration, "CRIU on the source was not ended"):
        migration.dump.bury()
    keep_logs(migration)
    with _optional(migration, "not cleaned up on the source"):
        migration.tidy.close()
    with _optional(
        migration, "the source's engine may show the container as running, or start it again"
    ):
        migration.source.record_ended()
    if isinstance(error, Undecided | ResumeFailed):
        return error
    told_go = migration.state is not State.KILLING
    return causes.marked(_undecided(migration, causes.failure(error), told_go=told_go), error)


def _go_or_again(
    migration: Migration, frames: list[tuple[int, bytes]], restore_again: Callable[[], None]
) -> protocol.Resumed | None:
    """Do as `_go` does, and once more if the target has lost what it held before it ran.

    Raises Undecided if that fails: at the next GO the target restores it by itself, if it still has
    all that is needed for that. Raises otherwise as `_go` does.
    """
    host = migration.target.hostname
    try:
        return _go(migration, frames)
    except RestoreLost as error:
        migration.note(f"{host}: {error}; it is restored there once more")
    try:
        restore_again()
        return _go(migration, frames)
    except (AgentFailed, AgentGone, CommandFailed, RestoreLost) as error:
        what = f"what {host} had restored was lost, and could not be restored again ({error})"
        undecided = _undecided(migration, what)
        undecided.if_nobody_holds_it = causes.resume_failed(error, host)
        raise causes.marked(undecided, error) from error


def _go(migration: Migration, frames: list[tuple[int, bytes]]) -> protocol.Resumed | None:
    """Give the target its GO, and return its answer.

    Returns None if the target obeyed, but its answer could not be read.
    Raises Undecided if the target does not say whether it obeyed, ResumeFailed if it could not
    resume the container, and RestoreLost if it could not and another restore may.
    """
    go = _say_go(migration, frames)
    limits = migration.options.limits
    left_s = max(limits.least_go_s, (migration.guardian.left_s() or 0) - limits.other_way_s)
    # The target has its GO: this process may wait for the answer, and then try another way.
    migration.guardian.expect(in_ns(left_s + limits.go_s))
    try:
        return migration.target.agent.answer(go, timeout_s=left_s)
    except AgentFailed as error:
        if error.kind == RestoreLost.__name__:
            raise RestoreLost(error.text) from error
        raise causes.resume_failed(error, migration.target.hostname) from error
    except AgentGone as error:
        what = f"the target did not answer GO after the source had been stopped ({error})"
        raise causes.marked(_undecided(migration, what), error) from error
    except Exception as error:  # noqa: BLE001  (what matters is whether it obeyed)
        _ask_again(migration, error)
        return None


def _ask_again(migration: Migration, unread: Exception) -> None:
    """Find out by another request whether the target obeyed GO. Raises as `_go` does if it did not.

    The agent answers requests in order and obeys none after a failure. If it answers this one, it
    has obeyed GO.
    """
    try:
        migration.target.agent.request(protocol.Ping(), timeout_s=migration.options.limits.ask_s)
    except AgentFailed as error:
        raise causes.resume_failed(error, migration.target.hostname) from error
    except Exception as error:
        what = (
            "the target did not say whether it obeyed, "
            f"after the source had been stopped ({unread})"
        )
        raise causes.marked(_undecided(migration, what), unread) from error
    migration.note(
        f"the target runs the container, but its answer to that could not be read: {unread}"
    )


def _say_go(migration: Migration, frames: list[tuple[int, bytes]]) -> protocol.Go:
    """Send GO, with the frames that came for the container in the freeze if they can be sent.

    Raises Undecided if the link is lost.
    """
    try:
        try:
            return _ask_to_go(migration, frames)
        except AgentGone:
            raise
        except Exception as error:  # noqa: BLE001  (nothing was sent)
            migration.note(f"frames that came in the freeze were not sent: {reason(error)}")
            return _ask_to_go(migration, [])
    except AgentGone as error:
        what = f"the link was lost after the source had been stopped ({error})"
        raise causes.marked(_undecided(migration, what, told_go=False), error) from error


def _ask_to_go(migration: Migration, frames: list[tuple[int, bytes]]) -> protocol.Go:
    go = protocol.Go(frames=tuple(LateFrame(index, len(frame)) for index, frame in frames))
    migration.target.agent.ask(go, [frame for _, frame in frames])
    return go


def _settle(migration: Migration, answer: protocol.Resumed | None) -> None:
    """Enter the freeze into the report: its stages, and the downtime.

    The downtime runs from the release of the dump to the resume. Without the target's answer only
    the source's stages are entered.
    """
    for stamp in migration.dump.stamps:
        migration.progress.instant(stamp.name, "source", stamp.at_ns)
    if answer is None:
        return
    for name, at_ns in (("go", answer.go_ns), ("resumed", answer.resumed_ns), *answer.stamps):
        migration.target_instant(name, at_ns)
    at_us = {(each.host, each.name): each.at_us for each in reversed(migration.report.times.freeze)}
    migration.report.times.downtime_us = (
        at_us["target", "resumed"] - at_us["source", "request DUMP"]
    )


def _begin_links_down(migration: Migration) -> None:
    """Take the dead container's links down in a thread; note a failure at the closing of `tidy`."""
    links_down = Worker("links down", migration.source.take_links_down)

    def join() -> None:
        with _optional(migration, "the container's links on the source were not taken down"):
            links_down.result()

    migration.tidy.callback(join)


def _not_dead(migration: Migration, why: str) -> Undecided:
    what = f"process {migration.source.init.pid} on the source {why}"
    return _undecided(migration, what, told_go=False, then=" once that process is dead")


def _undecided(
    migration: Migration,
    what: str,
    *,
    told_go: bool = True,
    then: str = "",
) -> Undecided:
    """Return what the user is told. The guardian goes on meanwhile, for its PATIENCE_S."""
    advice = (
        f"a process on this host tries to end the move for ten minutes; after that"
        f" 'migratectl recover {migration.migration_id}' on this host ends it{then}"
    )
    return Undecided(
        migration.migration_id, migration.target.hostname, what, advice, told_go=told_go
    )


@contextlib.contextmanager
def _optional(migration: Migration, what: str) -> Iterator[None]:
    """Run the block; if it fails, note `what` and the error, and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (the target is about to get its GO, or has)
        migration.note(f"{what}: {reason(error)}")
