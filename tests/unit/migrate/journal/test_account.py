"""Tests of migrate/journal/account.py: what the entries of a journal come to."""

from __future__ import annotations

import json

import pytest

from checkpoint.errors import DataInvalid
from migrate.agent import state as incoming
from migrate.decisions.state import State
from migrate.journal.account import CUT_OFF, Account, account, end_of_cut_off
from migrate.journal.records import SOURCE, TARGET, Ended, Entered, Entry, MadeThing, encode
from tests.unit.helpers.begun import AT_MS, ID, begun

#: States of the source in which the target may hold a copy.
MAYBE_HELD = (State.FROZEN, State.HELD, State.KILLING, State.ROLLING_BACK)


def account_of(*entries: Entry) -> Account:
    return account(json.loads(json.dumps([encode(entry) for entry in entries])))


def entered(state: str, at_ms: int = AT_MS) -> Entered:
    return Entered(at_ms=at_ms, state=state)


def test_the_last_state_counts() -> None:
    found = account_of(begun(), entered("prepared", AT_MS + 1), entered("armed", AT_MS + 2))
    assert found == Account(
        begun=begun(), state="armed", since_ms=AT_MS + 2, made=(), passing=(), ended=None
    )


def test_a_migration_that_has_only_begun_has_no_state() -> None:
    assert account_of(begun()) == Account(
        begun=begun(), state=None, since_ms=AT_MS, made=(), passing=(), ended=None
    )


def test_what_was_made_is_kept_in_its_order_and_is_no_state() -> None:
    things = [{"kind": "HostLink", "name": name, "index": 7} for name in "ab"]
    entries = [MadeThing(at_ms=AT_MS + 5, thing=thing) for thing in things]
    passing = MadeThing(at_ms=AT_MS + 5, thing=things[0], passing=True)
    found = account_of(begun(), entered("prepared", AT_MS + 1), *entries, passing)
    assert (found.state, found.since_ms) == ("prepared", AT_MS + 1)
    assert (list(found.made), list(found.passing)) == (things, things[:1])


def test_the_end_says_how_it_ended() -> None:
    end = Ended(at_ms=AT_MS + 9, outcome="rolled back", error="the link was lost")
    found = account_of(begun(), entered("held"), end)
    assert (found.state, found.since_ms, found.ended) == ("rolled back", AT_MS + 9, end)


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [entered("armed")],
        [begun(), begun()],
        [begun(), Ended(at_ms=AT_MS, outcome="done"), entered("armed")],
        [begun(), Ended(at_ms=AT_MS, outcome="done"), Ended(at_ms=AT_MS, outcome="done")],
    ],
)
def test_a_journal_is_of_one_migration(entries: list[Entry]) -> None:
    with pytest.raises(DataInvalid):
        account_of(*entries)


@pytest.mark.parametrize("state", [None, "planned", "prepared", "armed", "rolled back"])
def test_before_the_target_holds_it_the_container_runs_on_the_source(state: str | None) -> None:
    found = account_of(begun()) if state is None else account_of(begun(), entered(state))
    for lives in (True, False):
        end = end_of_cut_off(found, 7, lives=lives)
        assert end == Ended(at_ms=7, outcome="rolled back", error=CUT_OFF)


@pytest.mark.parametrize(
    ("side", "state"),
    [
        *((SOURCE, state.value) for state in MAYBE_HELD),
        (SOURCE, State.KILLED.value),
        (TARGET, incoming.State.RESUMED.value),
    ],
)
def test_one_host_alone_does_not_know_what_came_later(side: str, state: str) -> None:
    assert end_of_cut_off(account_of(begun(side), entered(state)), 7, lives=False) is None


@pytest.mark.parametrize("state", MAYBE_HELD)
def test_a_container_that_lives_runs_on_the_source_and_may_be_held_on_the_target(
    state: State,
) -> None:
    end = end_of_cut_off(account_of(begun(), entered(state.value)), 7, lives=True)
    assert end is not None
    assert (end.outcome, end.error) == (
        "rolled back",
        f"{CUT_OFF}; beta may hold a copy:"
        f" 'migratectl recover {ID} --abort --on root@beta:2222' drops that",
    )


@pytest.mark.parametrize("state", ["armed", "held"])
def test_a_target_without_its_programs_has_nothing_of_it(state: str) -> None:
    """CRIU has killed a copy that nobody holds any more."""
    found = account_of(begun(TARGET), entered(state))
    end = end_of_cut_off(found, 7, lives=False)
    assert end == Ended(at_ms=7, outcome="aborted", error=CUT_OFF)
