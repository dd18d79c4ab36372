"""Tests of checkpoint/memory/ranges.py against sets of pages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from checkpoint.memory import ranges
from checkpoint.memory.ranges import Range

PAGES = 24
page_sets = st.sets(st.integers(0, PAGES - 1))


def as_ranges(pages: set[int], joined: bool = True) -> list[Range]:
    """Return pages as ranges, sorted and disjoint; neighbours joined, or each page by itself."""
    found: list[Range] = []
    for page in sorted(pages):
        if joined and found and found[-1][1] == page:
            found[-1] = (found[-1][0], page + 1)
        else:
            found.append((page, page + 1))
    return found


def pages_of(found: list[Range]) -> set[int]:
    """Return the pages of ranges, which must be sorted and disjoint."""
    pages = [page for start, end in found for page in range(start, end)]
    assert len(pages) == len(set(pages)), "disjoint"
    assert found == sorted(found)
    assert all(start < end for start, end in found), "none is empty"
    return set(pages)


@given(page_sets, page_sets, st.booleans(), st.booleans())
def test_a_union_has_the_pages_of_both(
    first: set[int], second: set[int], joined: bool, joined_too: bool
) -> None:
    assert ranges.union(as_ranges(first, joined), as_ranges(second, joined_too)) == as_ranges(
        first | second
    )


@given(st.lists(st.tuples(st.integers(0, PAGES), st.integers(1, 5)), max_size=8))
def test_union_takes_what_overlaps_in_any_order(given_ranges: list[tuple[int, int]]) -> None:
    given_ranges = [(start, start + length) for start, length in given_ranges]
    everything = {page for start, end in given_ranges for page in range(start, end)}
    assert ranges.union(given_ranges, []) == as_ranges(everything)


@given(page_sets, page_sets, st.booleans(), st.booleans())
def test_an_intersection_has_the_pages_in_both(
    first: set[int], second: set[int], joined: bool, joined_too: bool
) -> None:
    found = ranges.intersection(as_ranges(first, joined), as_ranges(second, joined_too))
    assert pages_of(found) == first & second


@given(page_sets, page_sets, st.booleans(), st.booleans())
def test_a_difference_has_the_pages_of_the_first_alone(
    first: set[int], second: set[int], joined: bool, joined_too: bool
) -> None:
    found = ranges.difference(as_ranges(first, joined), as_ranges(second, joined_too))
    assert pages_of(found) == first - second


@given(page_sets)
def test_the_size_is_the_number_of_pages(pages: set[int]) -> None:
    assert ranges.size(as_ranges(pages)) == len(pages)
