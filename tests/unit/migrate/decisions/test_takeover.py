"""Tests of migrate/decisions/takeover.py: the commit rule holds, whatever is seen and done."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from migrate.decisions.state import State
from migrate.decisions.takeover import MAY_BE_HELD, Act, Life, Seen, Told, next_act

#: The states of the source after which the container may be dead by this migration's doing.
AFTER_THE_KILL = ("killing", "killed", "resumed")
LAST = (Act.END_BACK, Act.LEAVE, Act.GIVE_UP, Act.FINISH)
WORDS = (Act.ABORT, Act.GO)
#: How often a target that was not reached is tried again in these tests.
TRIES = 3
EITHER = (False, True)


def every() -> Iterator[Seen]:
    """Yield all that can be seen."""
    states = (None, *(state.value for state in State))
    for state, life, criu, undone, told, patient in itertools.product(
        states, Life, EITHER, EITHER, (None, *Told), EITHER
    ):
        yield Seen(state=state, life=life, criu=criu, undone=undone, told=told, patient=patient)


def those_of(*acts: Act) -> list[Seen]:
    """Return all that may be seen when one of these acts is to be done."""
    found = [seen for seen in every() if next_act(seen) in acts]
    assert found
    return found


def test_the_target_runs_only_what_is_dead_by_this_migrations_doing() -> None:
    for seen in those_of(Act.GO):
        assert (seen.life, seen.state in AFTER_THE_KILL) == (Life.DEAD, True), seen


def test_the_only_copy_is_never_dropped() -> None:
    """A container that lives after all is entered as such before anything is done for it."""
    for seen in those_of(Act.ABORT, Act.UNDO, Act.THAW, Act.END_BACK):
        assert seen.state not in AFTER_THE_KILL, seen
    for seen in those_of(Act.TURN_BACK):
        assert (seen.life, seen.state in ("killing", "killed")) == (Life.LIVES, True), seen


def test_a_container_that_the_target_runs_is_never_taken_back() -> None:
    resumed = {next_act(seen) for seen in every() if seen.state == "resumed"}
    assert resumed == {Act.BURY, Act.FINISH}


def test_nothing_is_removed_before_the_target_has_said_that_it_runs_the_container() -> None:
    for seen in those_of(Act.FINISH):
        assert seen.state in ("resumed", "done") or (
            seen.told is Told.OBEYED and seen.life is Life.DEAD
        ), seen


def test_criu_is_the_first_to_go() -> None:
    """It may hold the container frozen, or undo something for a dead container."""
    for seen in every():
        if seen.criu and seen.life is Life.DYING:
            assert next_act(seen) in (Act.THAW, Act.BURY, Act.WAIT, Act.LEAVE), seen
        elif seen.criu:
            assert next_act(seen) in (Act.TURN_BACK, Act.THAW, Act.BURY), seen
        else:
            assert next_act(seen) not in (Act.THAW, Act.BURY), seen


def test_criu_is_not_killed_while_the_container_may_live() -> None:
    for seen in those_of(Act.BURY):
        killed = seen.life in (Life.DEAD, Life.ANEW) and seen.state in AFTER_THE_KILL
        assert seen.state in ("resumed", "done") or killed, seen


def test_a_dying_container_is_waited_for_only_if_this_migration_killed_it() -> None:
    for seen in those_of(Act.WAIT):
        assert seen.life is Life.DYING
        assert seen.state in ("killing", "killed")


def test_what_lives_on_the_source_is_undone_before_the_target_is_told() -> None:
    """It may run on without the target. What has ended there may be started by its engine then."""
    for seen in those_of(Act.ABORT):
        assert seen.undone or seen.life is not Life.LIVES, seen
    for seen in those_of(Act.UNDO):
        settled = seen.told in (Told.OBEYED, Told.ABSENT) or seen.state == "rolled back"
        never_held = seen.told is not None and seen.state not in MAY_BE_HELD
        assert seen.life is Life.LIVES or settled or never_held, seen
    assert all(seen.undone for seen in those_of(Act.END_BACK))


def test_a_target_is_tried_again_only_while_there_is_patience() -> None:
    for seen in those_of(*WORDS):
        assert seen.told is None or seen.patient, seen
    for seen in those_of(Act.LEAVE):
        assert seen.told is not None or seen.life in (Life.DYING, Life.ANEW), seen
        assert not seen.patient or seen.life is Life.ANEW, seen


def test_a_target_that_has_obeyed_is_told_nothing_more() -> None:
    for seen in every():
        if seen.told is Told.OBEYED:
            assert next_act(seen) not in WORDS, seen


def test_a_host_without_the_copy_is_told_to_run_it_again_and_not_to_drop_it() -> None:
    """Somebody may bring the host, and with it the copy, back. There is nothing to drop."""
    for seen in every():
        if seen.told is Told.ABSENT:
            assert next_act(seen) is not Act.ABORT, seen
            assert next_act(seen) is not Act.FINISH or seen.state in ("resumed", "done"), seen


def test_a_container_that_runs_on_the_source_again_is_left_to_a_person() -> None:
    for seen in every():
        if seen.life is Life.ANEW and seen.state in ("killing", "killed"):
            assert next_act(seen) in (Act.BURY, Act.LEAVE), seen


def test_what_is_lost_is_given_up_and_never_removed() -> None:
    """The files on the source are all that is left of the container."""
    for seen in every():
        if seen.told is Told.LOST and seen.state in ("killing", "killed"):
            assert next_act(seen) not in (Act.ABORT, Act.FINISH, Act.GO), seen
    for seen in those_of(Act.GIVE_UP):
        assert (seen.told, seen.life, seen.criu) == (Told.LOST, Life.DEAD, False), seen
        assert seen.state in ("killing", "killed"), seen


def after(seen: Seen, act: Act, reply: Told, tries: int) -> Seen:
    """Return what is seen after an act, if the target says `reply` to each word."""
    if act is Act.TURN_BACK:
        return replace(seen, state=State.ROLLING_BACK.value)
    if act in (Act.THAW, Act.BURY):
        return replace(seen, criu=False)
    if act is Act.WAIT:
        return replace(seen, life=Life.DEAD)
    if act is Act.UNDO:
        return replace(seen, undone=True)
    assert act in WORDS, act
    patient = seen.patient and tries < TRIES
    if act is Act.GO and reply is Told.OBEYED:
        return replace(seen, told=reply, patient=patient, state=State.RESUMED.value)
    return replace(seen, told=reply, patient=patient)


def acts(seen: Seen, *replies: Told, dies_after: int | None = None) -> list[Act]:
    """Return the acts to the last one. The target says the last of `replies` for ever.

    The container ends by somebody else's doing after so many acts as `dies_after` says.
    """
    done: list[Act] = []
    while True:
        if len(done) == dies_after:
            seen = replace(seen, life=Life.DEAD)
        done.append(act := next_act(seen))
        if act in LAST:
            return done
        assert len(done) < 10, f"it goes on for ever: {done}"
        tries = sum(each in WORDS for each in done[:-1])
        seen = after(seen, act, replies[min(tries, len(replies) - 1)], tries + 1)


@pytest.mark.parametrize("reply", Told)
def test_each_way_has_an_end_and_does_nothing_twice_but_speak(reply: Told) -> None:
    for seen in every():
        done = acts(seen, reply)
        others = [act for act in done if act not in WORDS]
        assert len(set(others)) == len(others), (seen, done)
        assert len({act for act in done if act in WORDS}) <= 1, (seen, done)


@pytest.mark.parametrize("reply", Told)
def test_a_way_that_was_interrupted_ends_as_it_would_have(reply: Told) -> None:
    """Whoever goes on with it sees what was done, and has said nothing yet."""
    for seen in every():
        if seen.told is not None:
            continue
        act, last = next_act(seen), acts(seen, reply)[-1]
        if act not in LAST:
            later = replace(after(seen, act, reply, 1), told=None, patient=seen.patient)
            assert acts(later, reply)[-1] is last, (seen, act)


@pytest.mark.parametrize("reply", Told)
@pytest.mark.parametrize("dies_after", range(1, 6))
def test_a_container_that_ran_on_is_run_by_no_other_host_when_it_ends(
    dies_after: int, reply: Told
) -> None:
    """A copy of it would be one of an earlier time."""
    for seen in every():
        if seen.life is Life.LIVES and seen.state not in ("resumed", "done"):
            done = acts(seen, reply, dies_after=dies_after)
            assert not {Act.GO, Act.BURY, Act.FINISH} & set(done), (seen, done)


BACK = [Act.THAW, Act.UNDO, Act.ABORT, Act.END_BACK]
ENDED_BACK = [Act.THAW, Act.ABORT, Act.UNDO, Act.END_BACK]


def seen_in(state: str | None, life: Life, *, criu: bool = True) -> Seen:
    """Return what somebody sees who has done nothing yet."""
    return Seen(state=state, life=life, criu=criu, undone=False, told=None, patient=True)


@pytest.mark.parametrize(
    ("seen", "replies", "done"),
    [
        (seen_in(None, Life.LIVES, criu=False), [Told.ABSENT], BACK[1:]),
        (seen_in("armed", Life.LIVES), [Told.OBEYED], BACK),
        (seen_in("armed", Life.LIVES), [Told.UNREACHED], BACK),
        (seen_in("frozen", Life.LIVES), [Told.OBEYED], BACK),
        (seen_in("held", Life.LIVES), [Told.ABSENT], BACK),
        (seen_in("held", Life.DEAD), [Told.OBEYED], ENDED_BACK),
        (seen_in("frozen", Life.DYING), [Told.OBEYED], ENDED_BACK),
        (
            seen_in("held", Life.DEAD),
            [Told.REFUSED],
            [Act.THAW, *[Act.ABORT] * TRIES, Act.LEAVE],
        ),
        (seen_in("killing", Life.LIVES), [Told.OBEYED], [Act.TURN_BACK, *BACK]),
        (
            seen_in("rolling back", Life.LIVES, criu=False),
            [Told.UNREACHED, Told.OBEYED],
            [Act.UNDO, Act.ABORT, Act.ABORT, Act.END_BACK],
        ),
        (
            seen_in("held", Life.LIVES),
            [Told.UNREACHED],
            [Act.THAW, Act.UNDO, *[Act.ABORT] * TRIES, Act.LEAVE],
        ),
        (
            seen_in("killing", Life.DYING),
            [Told.OBEYED],
            [Act.WAIT, Act.BURY, Act.GO, Act.FINISH],
        ),
        (seen_in("killed", Life.DEAD), [Told.OBEYED], [Act.BURY, Act.GO, Act.FINISH]),
        (
            seen_in("killed", Life.DEAD, criu=False),
            [Told.UNREACHED, Told.REFUSED, Told.OBEYED],
            [Act.GO, Act.GO, Act.GO, Act.FINISH],
        ),
        (
            seen_in("killing", Life.DEAD, criu=False),
            [Told.ABSENT],
            [*[Act.GO] * TRIES, Act.LEAVE],
        ),
        (seen_in("resumed", Life.DEAD), [Told.UNREACHED], [Act.BURY, Act.FINISH]),
    ],
    ids=lambda value: (
        f"{value.state}, {value.life.value}" if isinstance(value, Seen) else f"{value[0].value}"
    ),
)
def test_the_ways_by_name(seen: Seen, replies: list[Told], done: list[Act]) -> None:
    assert acts(seen, *replies) == done
