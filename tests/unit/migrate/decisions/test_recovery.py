"""Tests of migrate/decisions/recovery.py: an operator's word doubles and loses no container."""

from __future__ import annotations

import itertools

import pytest

from migrate.decisions.recovery import SourceSeen, objection_to_abort, objection_to_go
from migrate.decisions.state import State

STATES = [None, *(state.value for state in State)]


def seen(state: str | None, *, goes_on: bool = False, lives: bool = False) -> SourceSeen:
    return SourceSeen(state=state, goes_on=goes_on, init=4242, lives=lives)


@pytest.mark.parametrize("state", STATES)
def test_what_lives_on_the_source_never_runs_on_the_target(state: str | None) -> None:
    for goes_on, said_dead in itertools.product((True, False), repeat=2):
        found = seen(state, goes_on=goes_on, lives=True)
        assert objection_to_go(found, said_dead=said_dead) is not None


@pytest.mark.parametrize("state", STATES)
def test_a_death_that_is_seen_needs_nobodys_word(state: str | None) -> None:
    assert objection_to_go(seen(state), said_dead=False) is None


def test_elsewhere_the_operator_must_know_that_it_is_dead() -> None:
    told = objection_to_go(None, said_dead=False)
    assert told is not None
    assert "--source-is-dead" in told
    assert objection_to_go(None, said_dead=True) is None


@pytest.mark.parametrize("lives", [True, False])
def test_nobody_decides_beside_the_program_that_carries_it_out(lives: bool) -> None:
    found = seen("killed", goes_on=True, lives=lives)
    for told in (objection_to_go(found, said_dead=True), objection_to_abort(found)):
        assert told is not None
        assert told.startswith("the migration goes on")


@pytest.mark.parametrize("state", STATES)
def test_the_only_copy_is_not_dropped(state: str | None) -> None:
    assert objection_to_abort(seen(state, lives=True)) is None
    told = objection_to_abort(seen(state))
    assert (told is not None) is (state in ("killing", "killed", "resumed", "done"))


def test_elsewhere_a_copy_may_be_dropped() -> None:
    assert objection_to_abort(None) is None
