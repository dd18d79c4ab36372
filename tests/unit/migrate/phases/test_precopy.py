"""Tests of migrate/phases/precopy.py: the way, the number of rounds, and the slowing down."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from checkpoint.errors import CgroupUnavailable
from checkpoint.undo import Undo
from migrate.decisions.convergence import OnNoConverge, Policy
from migrate.decisions.write_tracking import Mode, Tracking
from migrate.errors import CannotTrack, NotConverging
from migrate.memory.copying import Reach
from migrate.memory.stop_copy import StopCopy
from migrate.memory.userfaultfd import UserfaultfdCopy
from migrate.migration import Migration
from migrate.options import Options
from migrate.phases import precopy
from migrate.phases.precopy import pre_copy
from migrate.progress import Progress
from migrate.report import Report
from migrate.wire import protocol
from tests.unit.helpers.unguarded import Unguarded
from tests.unit.migrate.memory.carrier import Carrier
from tests.unit.migrate.memory.ends import ends

MIB = 1 << 20
#: A container whose memory is never sent faster than it is written.
BUSY = [64 * MIB] * 40
ROUND_NS = 250_000_000
BOTH = (Tracking.USERFAULTFD, Tracking.SOFT_DIRTY)


class Way:
    """A way to send memory that reaches `reach`, and finds so many bytes written in each round."""

    def __init__(self, reach: Reach, rounds: Sequence[int] = (64 * MIB, 0)) -> None:
        self._reach, self._rounds = reach, list(rounds)
        self.batches = SimpleNamespace(pages=1, pages_zero=0, data_bytes=4096)
        self.closed = 0
        self.untracked = ()

    def attach(self) -> Reach:
        return self._reach

    def send_round(self) -> int:
        return self._rounds.pop(0)

    def close(self) -> None:
        self.closed += 1


class Agent:
    """The target's agent, which keeps what it is asked, or fails at the first question."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.failure: Exception | None = None
        self.renewed = 0
        #: The number of questions before the answers to which the connection is lost and back.
        self.loses = 0

    def request(self, message: object) -> protocol.Clock:
        if self.failure is not None:
            raise self.failure
        self.asked.append(message)
        if self.loses:
            self.loses -= 1
            self.renewed += 1
        return protocol.Clock(monotonic_ns=1, batches=5)


class Limit:
    """The limit of a container's speed. Each failure that is not None is raised once."""

    def __init__(self, failures: Sequence[Exception | None] = ()) -> None:
        self.shares: list[float] = []
        self.restored = 0
        self.before = self
        self.paths = ()
        self._failures = list(failures)

    def to(self, share: float) -> None:
        if self._failures and (failure := self._failures.pop(0)):
            raise failure
        self.shares.append(share)

    def remove(self) -> None:
        self.restored += 1


def move(
    tracking: tuple[Tracking, ...] = BOTH, mode: Mode = Mode.AUTO, **policy: Any
) -> tuple[Migration, Any, list[str]]:
    """Return a migration, what it has prepared, and the lines that people read of it."""
    notes: list[str] = []
    observer: Any = SimpleNamespace(note=notes.append, phase=lambda _: None, sent=lambda *_: None)
    make: Callable[..., Migration] = Migration
    found = make(
        migration_id="0123456789ab",
        options=Options(mode=mode, policy=Policy(**policy)),
        source=SimpleNamespace(
            pid=os.getpid(),
            container=SimpleNamespace(pid=7),
            facts=SimpleNamespace(criu_version=40201),
        ),
        target=SimpleNamespace(agent=Agent()),
        tracking=tracking,
        factors={},
        room_bytes=0,
        limit=SimpleNamespace(held_us=0),
        dump=SimpleNamespace(options=None),
        progress=Progress(Report.begin("web", "beta"), observer),
        journal=SimpleNamespace(entered=lambda _: None),
        guardian=Unguarded(),
        undo=Undo(),
    )
    found.report.sent.memory_bytes = 64 * MIB
    pages: Any = Carrier()
    pages.sent_bytes, pages.channels = 5000, 4
    pages.in_place = []
    pages.confirmed = pages.in_place.append
    return found, SimpleNamespace(pages=pages, directory=None, images=None), notes


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Return a function that replaces the ways to track. Each round takes a quarter of a second."""

    def take(*ways: Way) -> list[Any]:
        made = {tracking: lambda _, way=way: way for tracking, way in zip(BOTH, ways, strict=False)}
        monkeypatch.setattr(precopy, "WAYS", made)
        return list(ways)

    clock = itertools.count(step=ROUND_NS)
    monkeypatch.setattr(precopy, "time", SimpleNamespace(monotonic_ns=clock.__next__))
    return take


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    limit = Limit()
    monkeypatch.setattr(precopy, "CpuLimit", lambda pid: limit)
    return limit


Ways = Callable[..., list[Any]]


def test_without_tracking_nothing_is_sent_ahead() -> None:
    migration, prepared, _ = move(tracking=())
    found = pre_copy(migration, prepared)
    assert isinstance(found.copying, StopCopy)
    assert migration.report.mode == Mode.STOP_COPY.value
    assert migration.report.times.phases == []


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        (Reach.ALL, Reach.ALL, 0),
        (Reach.SOME, Reach.ALL, 1),
        (Reach.NONE, Reach.SOME, 1),
        (Reach.NONE, Reach.NONE, None),
    ],
)
def test_the_first_way_that_reaches_every_process_is_taken(
    ways: Ways, first: Reach, second: Reach, taken: int | None
) -> None:
    """It is enough if the last way reaches some processes."""
    both = ways(Way(first), Way(second))
    migration, prepared, notes = move()
    found = pre_copy(migration, prepared)
    if taken is None:
        assert isinstance(found.copying, StopCopy)
        assert notes == ["stop-copy: no process's writes can be tracked"]
        assert [way.closed for way in both] == [1, 1]
        return
    assert found.copying is both[taken]
    assert [way.closed for way in both] == [1, 0][:taken] + [0] * (2 - taken)
    assert ("soft-dirty pages: it reaches every process" in notes[0]) is (taken == 1)
    migration.tidy.close()
    assert both[taken].closed == 1


def test_one_way_alone_may_reach_some_processes(ways: Ways) -> None:
    (way,) = ways(Way(Reach.SOME))
    migration, prepared, _ = move(tracking=(Tracking.USERFAULTFD,))
    assert pre_copy(migration, prepared).copying is way


def test_a_user_who_asked_for_pre_copy_is_told_that_there_is_none(ways: Ways) -> None:
    ways(Way(Reach.NONE), Way(Reach.NONE))
    migration, prepared, _ = move(mode=Mode.PRE_COPY)
    with pytest.raises(CannotTrack):
        pre_copy(migration, prepared)


def test_rounds_go_on_while_they_shrink(ways: Ways) -> None:
    sizes = [64 * MIB, 32 * MIB, 16 * MIB, MIB]
    ways(Way(Reach.ALL, sizes))
    migration, prepared, notes = move()
    found = pre_copy(migration, prepared)
    assert found.cpu_limit is None
    assert found.history is not None
    assert [done.bytes for done in found.history.rounds] == sizes
    report, sent = migration.report, migration.report.sent
    assert (sent.rounds, sent.round_bytes) == (4, sizes)
    assert (report.mode, sent.bytes_sent["pages"]) == (Mode.PRE_COPY.value, 5000)
    assert len(notes) == len(migration.target.agent.asked) == 4  # type: ignore[attr-defined]
    assert isinstance(migration.target.agent.asked[0], protocol.Ping)  # type: ignore[attr-defined]


def test_rounds_before_a_connection_was_lost_decide_nothing(ways: Ways) -> None:
    sizes = [64 * MIB, 32 * MIB, 16 * MIB, MIB]
    ways(Way(Reach.ALL, sizes))
    migration, prepared, _ = move()
    migration.target.agent.loses = 2  # type: ignore[attr-defined]
    found = pre_copy(migration, prepared)
    assert found.history is not None
    assert [done.bytes for done in found.history.rounds] == sizes[2:]
    sent, pages = migration.report.sent, cast(Any, prepared.pages)
    assert (sent.rounds, sent.round_bytes) == (4, sizes)
    assert pages.in_place == [5] * 4, "the target has these"


def test_a_target_that_has_failed_shows_before_the_freeze(ways: Ways) -> None:
    ways(Way(Reach.ALL, BUSY))
    migration, prepared, _ = move()
    migration.target.agent.failure = ConnectionError("gone")  # type: ignore[attr-defined]
    with pytest.raises(ConnectionError):
        pre_copy(migration, prepared)
    assert migration.report.sent.rounds == 0


def test_a_container_that_writes_too_fast_is_left_where_it_is(ways: Ways) -> None:
    ways(Way(Reach.ALL, BUSY))
    migration, prepared, _ = move(on_no_converge=OnNoConverge.ABORT, max_downtime_ms=100)
    with pytest.raises(NotConverging, match="over the 100 ms allowed"):
        pre_copy(migration, prepared)
    times = migration.report.times
    assert (times.predicted_downtime_us or 0) > 100_000
    assert sum(times.predicted_parts_us.values()) == times.predicted_downtime_us


def test_a_container_that_writes_too_fast_is_slowed_down(ways: Ways, limit: Limit) -> None:
    """Its speed is halved each time, and is given back however the migration ends."""
    ways(Way(Reach.ALL, BUSY))
    migration, prepared, notes = move(on_no_converge=OnNoConverge.THROTTLE, max_downtime_ms=100)
    found = pre_copy(migration, prepared)
    assert found.cpu_limit is limit  # type: ignore[comparison-overlap]
    assert limit.shares == [0.5, 0.25, 0.125, 0.0625, 0.03125]
    assert "slowed down to 50% of its speed until the freeze" in notes
    assert limit.restored == 0
    migration.undo.close()
    assert limit.restored == 1


@pytest.mark.parametrize("error", [CgroupUnavailable("no cgroup"), PermissionError(1, "no")])
def test_a_container_that_cannot_be_slowed_down_is_frozen_anyway(
    ways: Ways, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def none(pid: int) -> None:
        raise error

    monkeypatch.setattr(precopy, "CpuLimit", none)
    ways(Way(Reach.ALL, BUSY))
    migration, prepared, notes = move(on_no_converge=OnNoConverge.THROTTLE, max_downtime_ms=100)
    assert pre_copy(migration, prepared).cpu_limit is None
    assert f"cannot be slowed down: {error}" in notes
    assert "frozen anyway" in notes[-1]


def test_a_container_that_cannot_be_slowed_down_further_is_frozen_anyway(
    ways: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = Limit([None, OSError(22, "Invalid argument")])
    monkeypatch.setattr(precopy, "CpuLimit", lambda pid: limit)
    ways(Way(Reach.ALL, BUSY))
    migration, prepared, notes = move(on_no_converge=OnNoConverge.THROTTLE, max_downtime_ms=100)
    assert pre_copy(migration, prepared).cpu_limit is limit  # type: ignore[comparison-overlap]
    assert limit.shares == [0.5]
    assert "cannot be slowed down: [Errno 22] Invalid argument" in notes


def test_a_last_round_comes_before_the_freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop-copy sends no rounds, and no last one either."""
    migration, prepared, _ = move()
    copying = UserfaultfdCopy(ends(7, Carrier()))
    monkeypatch.setattr(copying, "send_round", lambda: 3 * MIB)
    precopy.catch_up(migration, prepared, copying)
    assert (migration.report.sent.rounds, migration.report.sent.round_bytes) == (1, [3 * MIB])
    assert [phase.name for phase in migration.report.times.phases] == ["catch up"]
    precopy.catch_up(migration, prepared, StopCopy(ends(7, Carrier())))
    assert migration.report.sent.rounds == 1
