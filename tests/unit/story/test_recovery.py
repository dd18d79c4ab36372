"""Migrations that nobody ended, and that the source ends later by its journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from migrate.cli.exit_codes import CTL_CODES
from migrate.guardian import recovery
from migrate.journal.book import listed
from tests.unit.story import faults
from tests.unit.story.engine import World
from tests.unit.story.faults import Fault
from tests.unit.story.stage import Play, Stage


def come_back(world: World) -> None:
    """Let the target be reached again."""
    del world.faults["source connect"]


def outcomes(world: World) -> list[str | None]:
    """Return how the journals of both hosts have ended, the source's first."""
    ends = [each.account.ended for each in [*listed(), *world.target.do(listed)]]
    return [None if end is None else end.outcome for end in ends]


def by_recover(play: Play) -> str:
    code, said = play.recover_from_source()
    assert code == 0, said
    return said


def by_the_next_migration(play: Play) -> str:
    return play.begin_another()


Ends = Callable[[Play], str]
BOTH_WAYS = pytest.mark.parametrize("end", [by_recover, by_the_next_migration])


@pytest.fixture
def undecided(theatre: Stage) -> Iterator[tuple[World, Play]]:
    """Yield a migration whose link and host were lost after the kill, before GO."""
    wire = Fault("request", "Go", faults.lost)
    with theatre.world() as world, theatre.move(world, wire) as play:
        faults.lose_host(world)
        ending = play.run()
        assert (ending.code, ending.running, ending.held) == (60, set(), True), ending.said
        yield world, play


@pytest.fixture
def not_dropped(theatre: Stage) -> Iterator[tuple[World, Play]]:
    """Yield a migration that was rolled back, whose target holds a copy and was lost."""
    wire = Fault("answer", "Restore", faults.lost)
    with theatre.world() as world, theatre.move(world, wire) as play:
        faults.lose_host(world)
        ending = play.run()
        assert (ending.code, ending.running, ending.held) == (50, {"source"}, True), ending.said
        yield world, play


@BOTH_WAYS
def test_a_container_that_was_killed_is_run_by_the_target(
    undecided: tuple[World, Play], end: Ends
) -> None:
    world, play = undecided
    come_back(world)
    assert f"the move {play.id} of container 'box' is done: " in end(play)
    assert not play.settled()
    assert play.running() == {"target"}
    play.check_memory()
    assert outcomes(world) == ["done", "resumed"]
    play.check_nothing_left()


@BOTH_WAYS
def test_a_copy_of_a_container_that_lives_is_dropped(
    not_dropped: tuple[World, Play], end: Ends
) -> None:
    world, play = not_dropped
    come_back(world)
    assert f"the move {play.id} of container 'box' is rolled back: " in end(play)
    assert not play.settled()
    assert play.running() == {"source"}
    assert world.events("target")[-3:] == ["killed what was restored", "delete", "unprepare"]
    assert outcomes(world) == ["rolled back", "aborted"]
    play.check_nothing_left()


@pytest.mark.parametrize(
    "story",
    [
        "undecided",
        "not_dropped",
    ],
)
def test_a_target_that_is_not_reached_is_asked_again_next_time(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, story: str
) -> None:
    monkeypatch.setattr(recovery, "PATIENCE_S", 0.0)
    world, play = request.getfixturevalue(story)
    code, said = play.recover_from_source()
    assert code == CTL_CODES["NotRecovered"]
    assert "cannot be ended yet" in said
    assert play.settled(), "the container is held"
    assert outcomes(world) == [None, None]
    come_back(world)
    assert play.recover_from_source()[0] == 0
    assert not play.settled()
    assert len(play.running()) == 1
