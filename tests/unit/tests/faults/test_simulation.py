"""Tests of tests/faults/simulation.py: the commit rule holds in it, and it finds rules that do not.

`scripts/faults simulate` runs a million schedules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from migrate.decisions.state import State
from migrate.decisions.takeover import KILLED, Act, Seen, Told, next_act
from tests.faults.simulation import Violation, run

SCHEDULES = 10_000


def test_no_schedule_breaks_the_commit_rule() -> None:
    ends = {(world.container, world.copy) for world in map(run, range(SCHEDULES))}
    # Schedules of all kinds were among them.
    assert {("dead", "runs"), ("runs", "none"), ("dead", "none"), ("dead", "gone")} <= ends


def goes_early(seen: Seen) -> Act:
    """Tell the target GO although the container's death was not seen."""
    act = next_act(seen)
    return Act.GO if act is Act.WAIT else act


def drops_the_only_copy(seen: Seen) -> Act:
    """Tell the target ABORT, after the kill, if it could not be told GO."""
    act = next_act(seen)
    return Act.ABORT if act is Act.GO and seen.told is Told.UNREACHED else act


def forgets_that_it_turned_back(seen: Seen) -> Act:
    """Go back without entering that into the journal."""
    act = next_act(seen)
    back = replace(seen, state=State.ROLLING_BACK.value)
    return next_act(back) if act is Act.TURN_BACK else act


def undoes_before_it_tells(seen: Seen) -> Act:
    """Undo what has ended on the source, and may be started then, before the copy is dropped."""
    act = next_act(seen)
    return Act.UNDO if act is Act.ABORT and not seen.undone else act


def gives_up_what_may_be_held(seen: Seen) -> Act:
    """Take a container for lost whose target cannot be reached."""
    act = next_act(seen)
    return Act.GIVE_UP if act is Act.LEAVE and seen.state in KILLED else act


def violated(decide: Callable[[Seen], Act] = next_act, *, sees_death: bool = True) -> bool:
    """Return whether one of the schedules violates the commit rule."""
    for seed in range(SCHEDULES):
        try:
            run(seed, decide, sees_death=sees_death)
        except Violation:
            return True
    return False


@pytest.mark.parametrize(
    "decide",
    [
        goes_early,
        drops_the_only_copy,
        forgets_that_it_turned_back,
        gives_up_what_may_be_held,
        undoes_before_it_tells,
    ],
)
def test_a_broken_rule_of_the_guardian_is_found(decide: Callable[[Seen], Act]) -> None:
    assert violated(decide)


def test_a_coordinator_that_sees_no_death_is_found() -> None:
    assert violated(sees_death=False)
