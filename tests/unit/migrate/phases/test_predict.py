"""Tests of migrate/phases/predict.py: what is told of a freeze that would be too long, and when."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrate import costs
from migrate.decisions.convergence import History, OnNoConverge, Policy, Round
from migrate.decisions.prediction import Item, predict
from migrate.errors import NotConverging, WouldFreezeTooLong
from migrate.migration import Migration
from migrate.options import Options
from migrate.phases.predict import check, check_last, content_of, learn
from migrate.progress import Progress
from migrate.report import Interval, Report
from tests.unit.helpers.unguarded import Unguarded

MIB = 1 << 20
ALLOWED_MS = 300
MANY = {Item.FREEZE: 1, Item.THREADS: 2000}
LONG = predict(MANY, {}, None)


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learn into a file of the test's own."""
    monkeypatch.setattr(costs, "FILE", tmp_path / "costs.json")


def progress() -> tuple[Progress, list[str]]:
    notes: list[str] = []
    observer: Any = SimpleNamespace(note=notes.append)
    return Progress(Report.begin("web", "beta"), observer), notes


def move(choice: OnNoConverge = OnNoConverge.FREEZE, **policy: Any) -> tuple[Migration, Any]:
    """Return a move of this process, and what it has prepared and armed: `files` and trees."""
    make: Callable[..., Migration] = Migration
    policy = {"max_downtime_ms": ALLOWED_MS, **policy}
    found = make(
        migration_id="0123456789ab",
        options=Options(policy=Policy(on_no_converge=choice, **policy)),
        source=SimpleNamespace(pid=os.getpid()),
        target=SimpleNamespace(hostname="beta"),
        tracking=(),
        factors=costs.learned("beta"),
        room_bytes=0,
        limit=None,
        dump=None,
        progress=progress()[0],
        journal=None,
        guardian=Unguarded(),
        undo=None,
    )
    found.report.sent.memory_bytes = 64 * MIB
    tree = SimpleNamespace(file_count=10_000, changes=True)
    return found, SimpleNamespace(tmpfs=SimpleNamespace(file_count=3), trees=(tree,))


def look(migration: Migration, made: Any, copying: Any, history: History | None = None) -> float:
    return check_last(migration, made, made, copying, history)


def test_all_memory_is_sent_in_the_freeze_if_none_is_tracked() -> None:
    pid = os.getpid()
    assert content_of(pid, 64 * MIB, None)[Item.FROZEN] == 64 * MIB
    assert content_of(pid, 64 * MIB, [])[Item.FROZEN] < MIB
    assert content_of(pid, 64 * MIB, [pid])[Item.FROZEN] > MIB


@pytest.mark.parametrize("choice", OnNoConverge)
def test_a_freeze_that_is_long_is_told_before_anything_is_sent(choice: OnNoConverge) -> None:
    there, notes = progress()
    policy = Policy(max_downtime_ms=ALLOWED_MS, on_no_converge=choice)
    if choice is OnNoConverge.ABORT:
        with pytest.raises(WouldFreezeTooLong, match=r"2,000 threads; 300 ms are allowed"):
            check(MANY, policy, there)
    else:
        assert check(MANY, policy, there) == {}
        assert notes == [f"{LONG}; 300 ms are allowed"]
    assert there.report.times.predicted_downtime_us == LONG.total_us


def test_a_freeze_that_is_short_enough_is_not_told() -> None:
    there, notes = progress()
    check(MANY, Policy(max_downtime_ms=10_000, on_no_converge=OnNoConverge.ABORT), there)
    assert notes == []


def test_what_was_learned_in_a_bad_hour_keeps_no_container_for_ever() -> None:
    """No freeze can teach better if none is let through."""
    costs.keep("beta", {Item.FREEZE: 6.0})
    policy = Policy(max_downtime_ms=ALLOWED_MS, on_no_converge=OnNoConverge.ABORT)

    def refused(_: int) -> bool:
        try:
            check({Item.FREEZE: 1}, policy, progress()[0])
        except WouldFreezeTooLong:
            return True
        return False

    assert 0 < len(list(itertools.takewhile(refused, range(10)))) < 5


def test_the_last_look_counts_files() -> None:
    migration, made = move()
    look(migration, made, SimpleNamespace(untracked=()))
    parts = migration.report.times.predicted_parts_us
    assert parts["files"] == 8 * 10_003
    assert parts["changing"] == 60_000


def test_the_last_look_keeps_what_the_rounds_have_shown() -> None:
    migration, made = move()
    rounds = [Round(bytes=10 * MIB, length_us=1_000_000)] * 2
    history = History(rounds=rounds, content={Item.MEMORY: 64 * MIB}, factors={}, elapsed_us=0)
    limit_s = look(migration, made, SimpleNamespace(untracked=()), history)
    assert migration.report.times.predicted_parts_us["written"] == 1_000_000
    assert limit_s == pytest.approx((migration.report.times.predicted_downtime_us or 0) / 1e5)


def test_a_container_that_grew_meanwhile_is_left_alone_if_the_user_says_so() -> None:
    for choice in OnNoConverge:
        migration, made = move(choice)
        if choice is OnNoConverge.ABORT:
            with pytest.raises(NotConverging, match=r"for 64\.0 MiB of memory.*over the 300 ms"):
                look(migration, made, SimpleNamespace(untracked=None))
        else:
            look(migration, made, SimpleNamespace(untracked=None))


def test_the_user_says_how_long_a_freeze_may_be_at_most() -> None:
    migration, made = move(max_frozen_s=7)
    assert look(migration, made, SimpleNamespace(untracked=())) == 7


def test_a_move_teaches_the_next_one() -> None:
    migration, made = move()
    copying = SimpleNamespace(untracked=())
    look(migration, made, copying)
    first_us = migration.report.times.predicted_downtime_us or 0
    migration.report.times.downtime_us = 2 * first_us
    learn(migration)
    again, _ = move()
    look(again, made, copying)
    assert first_us * 1.2 < (again.report.times.predicted_downtime_us or 0) < first_us * 2


def test_a_freeze_with_two_restores_teaches_nothing() -> None:
    migration, made = move()
    look(migration, made, SimpleNamespace(untracked=()))
    migration.report.times.downtime_us = 5_000_000
    migration.report.times.phases.append(Interval(name="restore again", start_us=0, length_us=1))
    learn(migration)
    assert costs.learned("beta") == {}


def test_a_move_whose_freeze_nobody_saw_teaches_nothing() -> None:
    migration, made = move()
    look(migration, made, SimpleNamespace(untracked=()))
    learn(migration)
    assert costs.learned("beta") == {}
