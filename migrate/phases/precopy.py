"""The pre-copy: rounds that send memory ahead while the container runs, until the freeze."""

from __future__ import annotations

import time
from dataclasses import dataclass

from checkpoint.errors import CgroupUnavailable
from checkpoint.host.cpu_limit import CpuLimit
from migrate.decisions.convergence import History, Round, Verdict, decide
from migrate.decisions.write_tracking import Mode, Tracking
from migrate.errors import CannotTrack, NotConverging
from migrate.memory.channels import PageChannels
from migrate.memory.copying import Ahead, Copying, Ends, Reach
from migrate.memory.soft_dirty import SoftDirtyCopy
from migrate.memory.stop_copy import StopCopy
from migrate.memory.userfaultfd import UserfaultfdCopy
from migrate.migration import Migration
from migrate.phases.predict import content_of, enter
from migrate.phases.prepare import Prepared
from migrate.wire import protocol

WAYS: dict[Tracking, type[UserfaultfdCopy | SoftDirtyCopy]] = {
    Tracking.USERFAULTFD: UserfaultfdCopy,
    Tracking.SOFT_DIRTY: SoftDirtyCopy,
}


@dataclass(frozen=True, kw_only=True)
class PreCopied:
    """The way in which memory is sent, and the limit of the container's speed, if it got one.

    Both are still in force: the last round comes in `catch_up`, and the freeze lifts the limit.
    `history` is that of the rounds, if there were any.
    """

    copying: Copying
    cpu_limit: CpuLimit | None = None
    history: History | None = None


def pre_copy(migration: Migration, prepared: Prepared) -> PreCopied:
    """Send memory ahead until the decision is to freeze; return the way that sends the rest.

    That way is the one that sent the rounds, or a stop-copy if no writes can be tracked. Raises
    NotConverging if the container writes too fast and the policy is to abort then, and CannotTrack
    if the user asked for pre-copy and no process can be tracked.
    """
    migration.report.mode = Mode.STOP_COPY.value
    ends = _ends(migration, prepared)
    if not migration.tracking:
        return PreCopied(copying=StopCopy(ends))
    with migration.progress.phase("pre-copy"):
        copying = _attached(migration, ends)
        if copying is None:
            if migration.options.mode is Mode.PRE_COPY:
                raise CannotTrack
            migration.note("stop-copy: no process's writes can be tracked")
            return PreCopied(copying=StopCopy(ends))
        migration.report.mode = Mode.PRE_COPY.value
        return _converge(migration, prepared, copying)


def catch_up(migration: Migration, prepared: Prepared, copying: Copying) -> None:
    """Send one more round: what was written between the decision to freeze and the freeze."""
    if isinstance(copying, UserfaultfdCopy | SoftDirtyCopy):
        with migration.progress.phase("catch up"):
            done = _round(migration, prepared.pages, copying)
            migration.progress.account_pages(copying.batches, prepared.pages.sent_bytes)
            migration.report.sent.rounds += 1
            migration.report.sent.round_bytes.append(done.bytes)


def _attached(migration: Migration, ends: Ends) -> Ahead | None:
    """Attach to the container's processes, and return the way of tracking that works.

    The first way that reaches all processes is taken, or else the last way if that reaches some.
    Returns None if no way is taken.
    """
    for tracking in migration.tracking:
        copying = WAYS[tracking](ends)
        reach = copying.attach()
        if reach is Reach.ALL or (reach is Reach.SOME and tracking is migration.tracking[-1]):
            migration.tidy.callback(copying.close)
            if tracking is not migration.tracking[0]:
                migration.note(f"pre-copy by {tracking.value}: it reaches every process")
            return copying
        copying.close()
    return None


def _ends(migration: Migration, prepared: Prepared) -> Ends:
    assert migration.source.facts.criu_version is not None
    return Ends(
        pid=migration.source.container.pid,
        dump=migration.dump,
        criu_version=migration.source.facts.criu_version,
        dump_s=migration.options.limits.dump_s,
        directory=prepared.directory,
        images=prepared.images,
        agent=migration.target.agent,
        pages=prepared.pages,
        progress=migration.progress,
    )


def _converge(migration: Migration, prepared: Prepared, copying: Ahead) -> PreCopied:
    """Send rounds until the decision is to freeze. Raises NotConverging if it is to give up."""
    sent, pid, agent = migration.report.sent, migration.source.pid, migration.target.agent
    rounds: list[Round] = []
    cpu_limit: CpuLimit | None = None
    slowed_to, started_ns = 1.0, time.monotonic_ns()
    while True:
        renewed = agent.renewed
        rounds.append(_round(migration, prepared.pages, copying))
        migration.progress.account_pages(copying.batches, prepared.pages.sent_bytes)
        # A failure of the target must show before the freeze.
        prepared.pages.confirmed(agent.request(protocol.Ping()).batches)
        sent.rounds += 1
        sent.round_bytes.append(rounds[-1].bytes)
        if agent.renewed != renewed:
            rounds.clear()  # they say nothing of the speed of the link
            continue
        elapsed_us = (time.monotonic_ns() - started_ns) // 1000
        history = History(
            rounds=rounds,
            content=content_of(pid, sent.memory_bytes, copying.untracked),
            factors=migration.factors,
            elapsed_us=elapsed_us,
            slowed_to=slowed_to,
        )
        decision = decide(history, migration.options.policy)
        migration.note(decision.reason)
        enter(migration.progress, decision.prediction)
        if decision.verdict is Verdict.FREEZE:
            return PreCopied(copying=copying, cpu_limit=cpu_limit, history=history)
        if decision.verdict is Verdict.GIVE_UP:
            raise NotConverging(decision.reason)
        if decision.verdict is Verdict.SLOW_DOWN:
            cpu_limit = cpu_limit or _cpu_limit(migration)
            slowed_to = _slow_down(migration, cpu_limit, slowed_to / 2)


def _round(migration: Migration, pages: PageChannels, copying: Ahead) -> Round:
    """Send one round, and return its bytes and its times."""
    began_ns, held_us = time.monotonic_ns(), migration.limit.held_us
    sent_bytes = copying.send_round()
    return Round(
        bytes=sent_bytes,
        length_us=(time.monotonic_ns() - began_ns) // 1000,
        held_us=(migration.limit.held_us - held_us) // pages.channels,
    )


def _cpu_limit(migration: Migration) -> CpuLimit | None:
    """Return a limit of the container's speed, not in force yet; None if it can have none."""
    try:
        limit = CpuLimit(migration.source.container.pid)
    except (CgroupUnavailable, OSError) as error:
        migration.note(f"cannot be slowed down: {error}")
        return None
    migration.undo.made(limit.before)
    return limit


def _slow_down(migration: Migration, limit: CpuLimit | None, share: float) -> float:
    """Slow the container down to `share` of its speed, until the freeze.

    Returns the share, or 0 if the container cannot be slowed down (any further).
    """
    if limit is None:
        return 0.0
    try:
        limit.to(share)
    except (CgroupUnavailable, OSError) as error:
        migration.note(f"cannot be slowed down: {error}")
        return 0.0
    migration.note(f"slowed down to {share:.0%} of its speed until the freeze")
    return share
