"""checkpoint/memory/ranges.py against sets of numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from checkpoint.memory import ranges
from checkpoint.memory.ranges import Range

LIMIT = 60


def ranges_of(numbers: set[int]) -> list[Range]:
    """Fully joined ranges of a set."""
    found: list[Range] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found


def numbers_of(found: Sequence[Range]) -> set[int]:
    return {number for start, end in found for number in range(start, end)}


def is_tidy(found: Sequence[Range]) -> bool:
    """Sorted, disjoint, none empty."""
    bounds = [bound for pair in found for bound in pair]
    return bounds == sorted(bounds) and all(start < end for start, end in found)


@st.composite
def tidy(draw: st.DrawFn) -> list[Range]:
    """Sorted disjoint ranges; neighbours may touch, as PAGEMAP_SCAN reports them."""
    cuts = sorted(draw(st.sets(st.integers(0, LIMIT), max_size=24)))
    pieces = list(itertools.pairwise(cuts))
    return [piece for piece in pieces if draw(st.booleans())]


any_range = st.tuples(st.integers(0, LIMIT), st.integers(1, 9)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(tidy(), tidy())
def test_intersection_is_that_of_sets(first: list[Range], second: list[Range]) -> None:
    found = ranges.intersection(first, second)
    assert numbers_of(found) == numbers_of(first) & numbers_of(second)
    assert is_tidy(found)


@given(tidy(), tidy())
def test_difference_is_that_of_sets(first: list[Range], second: list[Range]) -> None:
    found = ranges.difference(first, second)
    assert numbers_of(found) == numbers_of(first) - numbers_of(second)
    assert is_tidy(found)


@given(st.lists(any_range), st.lists(any_range))
def test_union_is_that_of_sets_and_joins_neighbours(first: list[Range], second: list[Range]) -> None:
    assert ranges.union(first, second) == ranges_of(numbers_of(first) | numbers_of(second))


@given(tidy())
def test_size_counts_bytes(found: list[Range]) -> None:
    assert ranges.size(found) == len(numbers_of(found))


@given(tidy(), tidy())
def test_two_parts_make_the_whole(first: list[Range], second: list[Range]) -> None:
    parts = ranges.difference(first, second), ranges.intersection(first, second)
    assert ranges.size(parts[0]) + ranges.size(parts[1]) == ranges.size(first)
    assert ranges.union(*parts) == ranges.union(first, [])
