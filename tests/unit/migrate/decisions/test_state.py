"""Tests of migrate/decisions/state.py: the steps between the states of a migration."""

import itertools

import pytest

from migrate.decisions.state import InvalidTransition, State, check_transition

REVERSIBLE = (State.PLANNED, State.PREPARED, State.ARMED, State.FROZEN, State.HELD)
WAY = (*REVERSIBLE, State.KILLING, State.KILLED, State.RESUMED, State.DONE)
ALLOWED = {
    *itertools.pairwise(WAY),
    *((state, State.ROLLING_BACK) for state in REVERSIBLE),
    (State.ROLLING_BACK, State.ROLLED_BACK),
}


@pytest.mark.parametrize("old", State)
@pytest.mark.parametrize("new", State)
def test_no_steps_exist_but_the_way_and_the_roll_back(old: State, new: State) -> None:
    if (old, new) in ALLOWED:
        check_transition(old, new)
    else:
        with pytest.raises(InvalidTransition):
            check_transition(old, new)
