"""Tests of migrate/decisions/prediction.py: the parts of a freeze, and what a freeze teaches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.decisions.prediction import (
    COSTS,
    FURTHEST,
    MIB,
    Factors,
    Item,
    corrected,
    predict,
)

GIB = 1 << 30
SMALL = {Item.FREEZE: 1, Item.MEMORY: 10 * MIB, Item.PROCESSES: 1}


def test_each_item_adds_its_cost() -> None:
    found = predict({**SMALL, Item.CONNECTIONS: 10_000}, {Item.CONNECTIONS: 2.0}, None)
    assert found.parts_us[Item.CONNECTIONS] == 2 * COSTS[Item.CONNECTIONS] * 10_000
    assert found.total_us == sum(found.parts_us.values())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "a freeze of 82 ms is predicted"),
        (
            {Item.CONNECTIONS: 10_000},
            "a freeze of 1.5 s is predicted, 1.4 s of it for 10,000 connections",
        ),
        ({Item.THREADS: 2000}, "a freeze of 1.5 s is predicted, 1.4 s of it for 2,000 threads"),
        (
            {Item.FROZEN: GIB},
            "a freeze of 6.2 s is predicted, 6.1 s of it for 1.0 GiB of"
            " memory that is only sent in the freeze",
        ),
        (
            {Item.WRITTEN: 100 * MIB},
            "a freeze of 1.1 s is predicted, 1.0 s of it for 100 MiB of written memory",
        ),
    ],
)
def test_people_are_told_what_most_of_a_freeze_is_for(content: dict[Item, int], said: str) -> None:
    assert str(predict({**SMALL, **content}, {}, None)) == said


def test_the_same_freeze_again_and_again_is_predicted_right_after_a_few_moves() -> None:
    content = {**SMALL, Item.THREADS: 2000}
    factors: Factors = {}
    seen_us = 3 * predict(content, {}, None).total_us
    for _ in range(5):
        factors = corrected(factors, predict(content, factors, None).parts_us, seen_us)
    assert predict(content, factors, None).total_us == pytest.approx(seen_us, rel=0.2)


def test_what_a_freeze_had_little_of_is_hardly_corrected() -> None:
    content = {**SMALL, Item.CONNECTIONS: 10_000}
    found = corrected({}, predict(content, {}, None).parts_us, 10_000_000)
    assert found[Item.CONNECTIONS] > 2
    assert 1 < found[Item.PROCESSES] < 1.01


def test_the_link_of_one_move_teaches_nothing() -> None:
    parts = predict({**SMALL, Item.WRITTEN: GIB}, {}, None).parts_us
    assert Item.WRITTEN not in corrected({}, parts, 1_000_000)


parts = st.dictionaries(st.sampled_from(Item), st.integers(0, 10**9))


@given(parts, st.integers(0, 10**12), st.sampled_from([{}, {Item.FREEZE: FURTHEST}]))
def test_no_freeze_teaches_nonsense(
    parts_us: dict[Item, int], seen_us: int, factors: Factors
) -> None:
    for item, factor in corrected(factors, parts_us, seen_us).items():
        assert item in COSTS
        assert 1 / FURTHEST <= factor <= FURTHEST
