"""Tests of checkpoint/memory/pager/missing.py against a dict: where missing pages were dumped."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from checkpoint.memory.pager.missing import Missing, Piece
from checkpoint.memory.ranges import Range
from checkpoint.memory.tracking.write_protection import PAGE_SIZE

BASE, PAGES = 0x7F00_0000_0000, 48
Origins = dict[int, int]
page_numbers, counts = st.integers(0, PAGES - 1), st.integers(1, 12)
spaces = st.integers(0, 3)


def address(page: int) -> int:
    return BASE + page * PAGE_SIZE


def pages_of(piece: Piece) -> Origins:
    """Return {address of a page: address of its content} of a piece."""
    assert piece.start < piece.end, "none is empty"
    return {page: page + piece.shift for page in range(piece.start, piece.end, PAGE_SIZE)}


def origins_of(missing: Missing, chunk: int) -> Origins:
    """Return {address of a page: address of its content}, found as the filler finds it."""
    left, found, last = missing.copy(), Origins(), 0
    while left:
        piece = left.first(chunk)
        assert piece.end - piece.start <= chunk
        assert piece.start >= last, "in the order of addresses"
        last = piece.end
        found |= pages_of(piece)
        left.drop(piece.start, piece.end)
    return found


class Model(RuleBasedStateMachine):
    """Address spaces, each beside a dict {address of a page: address of its content}.

    Each but the first is a fork's.
    """

    @initialize(pages=st.sets(page_numbers), joined=st.booleans())
    def restore(self, pages: set[int], joined: bool) -> None:
        ranges: list[Range] = []
        for page in sorted(pages):
            if joined and ranges and ranges[-1][1] == address(page):
                ranges[-1] = (ranges[-1][0], address(page + 1))
            else:
                ranges.append((address(page), address(page + 1)))
        self.spaces = [(Missing.of(ranges), {address(page): address(page) for page in pages})]

    def space(self, number: int) -> tuple[Missing, Origins]:
        return self.spaces[number % len(self.spaces)]

    @rule(number=spaces, first=page_numbers, count=counts)
    def drop(self, number: int, first: int, count: int) -> None:
        missing, model = self.space(number)
        missing.drop(address(first), address(first + count))
        for page in range(first, first + count):
            model.pop(address(page), None)

    @rule(number=spaces, old=page_numbers, new=page_numbers, count=counts)
    def move(self, number: int, old: int, new: int, count: int) -> None:
        if abs(new - old) < count:  # mremap(2) refuses places that overlap
            new = old + count
        missing, model = self.space(number)
        missing.move(address(old), address(new), count * PAGE_SIZE)
        moved = {address(new + i): model.pop(address(old + i), None) for i in range(count)}
        for page, origin in moved.items():
            model.pop(page, None)
            if origin is not None:
                model[page] = origin

    @precondition(lambda self: len(self.spaces) < 4)
    @rule(number=spaces)
    def fork(self, number: int) -> None:
        missing, model = self.space(number)
        self.spaces.append((missing.copy(), dict(model)))

    @rule(
        number=spaces,
        page=page_numbers,
        within=st.integers(0, PAGE_SIZE - 1),
        block=st.sampled_from([1, 4, 16]),
    )
    def around(self, number: int, page: int, within: int, block: int) -> None:
        missing, model = self.space(number)
        piece = missing.around(address(page) + within, block * PAGE_SIZE)
        assert (piece is not None) == (address(page) in model)
        if piece is not None:
            assert address(page) in pages_of(piece)
            assert pages_of(piece).items() <= model.items()
            low = address(page - page % block)
            assert low <= piece.start < piece.end <= low + block * PAGE_SIZE

    @invariant()
    def each_space_misses_its_own(self) -> None:
        for missing, model in self.spaces:
            assert bool(missing) == bool(model)
            assert origins_of(missing, 5 * PAGE_SIZE) == model


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def left(missing: Missing) -> list[Piece]:
    """Return the pieces of what is missing."""
    missing, found = missing.copy(), []
    while missing:
        found.append(missing.first(PAGE_SIZE))
        missing.drop(found[-1].start, found[-1].end)
    return found


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (10, 20, []),
        (0, 99, []),
        (0, 10, [(10, 20, 0)]),
        (20, 99, [(10, 20, 0)]),
        (10, 12, [(12, 20, 0)]),
        (18, 99, [(10, 18, 0)]),
        (14, 16, [(10, 14, 0), (16, 20, 0)]),
    ],
)
def test_dropped_pages_are_missing_no_more(
    start: int, end: int, expected: list[tuple[int, int, int]]
) -> None:
    missing = Missing.of([(10, 20)])
    missing.drop(start, end)
    assert left(missing) == expected


@pytest.mark.parametrize(
    ("old", "new", "size", "expected"),
    [
        (10, 50, 10, [(30, 40, 0), (50, 60, -40)]),
        (10, 0, 10, [(0, 10, 10), (30, 40, 0)]),
        (0, 60, 30, [(30, 40, 0), (70, 80, -60)]),
        (13, 60, 4, [(10, 13, 0), (17, 20, 0), (30, 40, 0), (60, 64, -47)]),
        (10, 30, 10, [(30, 40, -20)]),
        (10, 35, 10, [(30, 35, 0), (35, 45, -25)]),
        (50, 10, 10, [(30, 40, 0)]),
        (50, 60, 10, [(10, 20, 0), (30, 40, 0)]),
    ],
    ids=[
        "upward",
        "downward",
        "more than what is missing",
        "out of the middle",
        "in place of another",
        "over a part of another",
        "what is there in place of what is missing",
        "nothing of it",
    ],
)
def test_moved_pages_are_missing_at_their_new_place(
    old: int, new: int, size: int, expected: list[tuple[int, int, int]]
) -> None:
    missing = Missing.of([(10, 20), (30, 40)])
    missing.move(old, new, size)
    assert left(missing) == expected


def test_what_moved_twice_still_knows_where_it_came_from() -> None:
    missing = Missing.of([(10, 20)])
    missing.move(10, 50, 10)
    missing.move(52, 100, 2)
    assert left(missing) == [(50, 52, -40), (54, 60, -40), (100, 102, -88)]
    missing.move(50, 10, 10)
    missing.move(100, 12, 2)
    assert {
        page: page + shift for start, end, shift in left(missing) for page in range(start, end)
    } == {page: page for page in range(10, 20)}


@pytest.mark.parametrize(
    ("at", "block", "expected"),
    [
        (9, 8, None),
        (10, 8, (10, 16, 0)),
        (15, 8, (10, 16, 0)),
        (16, 8, (16, 24, 0)),
        (29, 8, (24, 30, 0)),
        (30, 8, None),
        (10, 64, (10, 30, 0)),
        (10, 1, (10, 11, 0)),
    ],
)
def test_the_piece_around_an_address_lies_within_its_block(
    at: int, block: int, expected: tuple[int, int, int] | None
) -> None:
    assert Missing.of([(10, 30)]).around(at, block) == expected


def test_a_fork_goes_its_own_way() -> None:
    parent = Missing.of([(10, 20)])
    child = parent.copy()
    parent.drop(10, 20)
    child.move(10, 30, 10)
    assert left(parent) == []
    assert left(child) == [(30, 40, -20)]


def test_an_address_space_without_missing_pages_is_false() -> None:
    assert not Missing()
    assert not Missing.of([])
    assert Missing().around(10, 8) is None
