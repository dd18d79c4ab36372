"""Tests of migrate/decisions/convergence.py: when rounds end, and what comes then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.decisions.convergence import (
    SLOWEST,
    SMALL_BYTES,
    History,
    OnNoConverge,
    Policy,
    Round,
    Verdict,
    decide,
    predicted,
)
from migrate.decisions.prediction import COSTS, Content, Item

MIB = 1 << 20
GO_ON, SLOW_DOWN, FREEZE, GIVE_UP = (
    Verdict.GO_ON,
    Verdict.SLOW_DOWN,
    Verdict.FREEZE,
    Verdict.GIVE_UP,
)


def at_100_mib_per_s(*sizes_mib: float) -> list[Round]:
    return [Round(bytes=int(size * MIB), length_us=int(size * 10_000)) for size in sizes_mib]


def content(memory_bytes: int) -> Content:
    return {Item.FREEZE: 1, Item.MEMORY: memory_bytes}


def history(
    *sizes_mib: float, memory_bytes: int = 128 * MIB, elapsed_us: int = 0, slowed_to: float = 1.0
) -> History:
    rounds = at_100_mib_per_s(*sizes_mib)
    return History(
        rounds=rounds,
        content=content(memory_bytes),
        factors={},
        elapsed_us=elapsed_us,
        slowed_to=slowed_to,
    )


def sending_us(found: History) -> int:
    """Return how long the memory is predicted to take that is written until the freeze."""
    return predicted(found).parts_us[Item.WRITTEN]


@pytest.mark.parametrize(
    ("sizes_mib", "verdict", "reason"),
    [
        ([128], GO_ON, "still shrinking"),
        ([1], FREEZE, "little is left"),
        ([2], FREEZE, "little is left"),
        # The first round is all memory, and is compared with none.
        ([128, 200], GO_ON, "still shrinking"),
        ([128, 40, 20], GO_ON, "still shrinking"),
        ([128, 8, 7], FREEZE, "no longer shrink"),
        ([128, 8, 9], FREEZE, "no longer shrink"),
        ([128, 40, 10, 3, 1], FREEZE, "little is left"),
        ([2 ** (20 - n) for n in range(6)], FREEZE, "--max-rounds 6 is reached"),
    ],
)
def test_rounds_go_on_while_they_help(
    sizes_mib: list[float], verdict: Verdict, reason: str
) -> None:
    decision = decide(history(*sizes_mib), Policy(max_rounds=6))
    assert decision.verdict is verdict
    assert reason in decision.reason


#: Sizes of rounds of a container that wrote 40 MiB during a round of 0.4 s: to send these in the
#: freeze takes another 0.4 s.
STUCK = (128, 40, 40)


@pytest.mark.parametrize(
    ("choice", "max_downtime_ms", "known", "verdict", "reason"),
    [
        (
            OnNoConverge.FREEZE,
            1000,
            {},
            FREEZE,
            "no longer shrink: 40.0 MiB in round 3, a freeze of ",
        ),
        (OnNoConverge.FREEZE, 300, {}, FREEZE, "over the 300 ms allowed, frozen anyway"),
        (OnNoConverge.ABORT, 1000, {}, FREEZE, "no longer shrink"),
        (OnNoConverge.ABORT, 300, {}, GIVE_UP, "over the 300 ms allowed"),
        (OnNoConverge.THROTTLE, 1000, {}, FREEZE, "no longer shrink"),
        (OnNoConverge.THROTTLE, 300, {}, SLOW_DOWN, "over the 300 ms allowed"),
        (OnNoConverge.THROTTLE, 300, {"slowed_to": 0.25}, SLOW_DOWN, "over the 300 ms allowed"),
        (OnNoConverge.THROTTLE, 300, {"slowed_to": SLOWEST}, FREEZE, "frozen anyway"),
        (OnNoConverge.THROTTLE, 300, {"elapsed_us": 9_000_000}, FREEZE, "9 s of rounds are enough"),
        (OnNoConverge.ABORT, 300, {"elapsed_us": 9_000_000}, GIVE_UP, "9 s of rounds are enough"),
        (OnNoConverge.FREEZE, 300, {"elapsed_us": 8_999_999}, FREEZE, "no longer shrink"),
    ],
)
def test_a_container_that_writes_too_fast_gets_what_the_policy_says(
    choice: OnNoConverge, max_downtime_ms: int, known: dict[str, Any], verdict: Verdict, reason: str
) -> None:
    policy = Policy(max_downtime_ms=max_downtime_ms, on_no_converge=choice, timeout_s=9)
    decision = decide(history(*STUCK, **known), policy)
    assert decision.verdict is verdict
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("choice", "verdict"),
    [(OnNoConverge.FREEZE, FREEZE), (OnNoConverge.ABORT, GIVE_UP), (OnNoConverge.THROTTLE, FREEZE)],
)
def test_a_budget_below_what_any_freeze_costs_slows_no_container_down(
    choice: OnNoConverge, verdict: Verdict
) -> None:
    """To slow the container down would not help, and is not done."""
    decision = decide(history(128, 1), Policy(max_downtime_ms=50, on_no_converge=choice))
    assert decision.verdict is verdict
    assert "over the 50 ms allowed" in decision.reason


def test_the_time_limit_ends_rounds_that_would_help() -> None:
    decision = decide(
        history(128, 40, 20, elapsed_us=5_000_000), Policy(timeout_s=5, max_downtime_ms=1000)
    )
    assert decision.verdict is FREEZE


def test_a_bandwidth_limit_does_not_count_against_the_freeze() -> None:
    held = Round(bytes=40 * MIB, length_us=4_000_000, held_us=3_600_000)
    rounds = [held, held]
    found = replace(history(40, 40), rounds=rounds)
    assert sending_us(found) == sending_us(history(40, 40)) == 400_000


def test_a_round_too_small_to_tell_the_speed_of_the_link_does_not_tell_it() -> None:
    slow = Round(bytes=1 * MIB, length_us=10_000_000)
    assert sending_us(replace(history(1), rounds=[slow])) < 20_000


def test_shared_memory_is_sent_no_faster_than_the_link_is() -> None:
    slow = [Round(bytes=10 * MIB, length_us=1_000_000)]
    shared = {**content(10 * MIB), Item.FROZEN: 100 * MIB}
    found = replace(history(1), rounds=slow, content=shared)
    assert predicted(found).parts_us[Item.FROZEN] == 10_000_000


sizes = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=40)


@given(
    sizes, st.integers(1, 10**6), st.integers(1, 40), st.sampled_from(OnNoConverge), st.floats(0, 1)
)
def test_every_history_gets_a_verdict_and_none_goes_on_for_ever(
    sizes: list[int], length_us: int, max_rounds: int, choice: OnNoConverge, slowed_to: float
) -> None:
    rounds = [Round(bytes=size, length_us=length_us) for size in sizes]
    found = History(
        rounds=rounds,
        content=content(max(sizes)),
        factors={},
        elapsed_us=0,
        slowed_to=slowed_to,
    )
    decision = decide(found, Policy(max_rounds=max_rounds, on_no_converge=choice))
    assert decision.prediction.total_us >= COSTS[Item.FREEZE]
    if len(rounds) >= max_rounds or sizes[-1] <= SMALL_BYTES:
        assert decision.verdict in (FREEZE, GIVE_UP)
    if decision.verdict is SLOW_DOWN:
        assert choice is OnNoConverge.THROTTLE
        assert slowed_to > SLOWEST
    if decision.verdict is GIVE_UP:
        assert choice is OnNoConverge.ABORT
