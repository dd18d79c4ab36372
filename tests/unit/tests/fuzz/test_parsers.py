"""Tests of tests/fuzz/parsers.py: every parser takes its seeds, and takes or refuses all else.

It does so in bounds of memory and time.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fuzz.mutate import damaged
from tests.fuzz.parser import MOST_BYTES, Parser, bounded_memory, bounded_time, corpus
from tests.fuzz.parsers import PARSERS

#: The number of damaged inputs of each parser. scripts/fuzz goes further.
COUNT, SEED = 300, 1


def check(parser: Parser, data: bytes) -> None:
    """Have a parser take an input, and name the input in any error."""
    try:
        with bounded_time():
            parser.takes(data)
    except BaseException as error:
        error.add_note(f"input: {data!r}")
        raise


@pytest.mark.parametrize("name", PARSERS)
def test_seeds_are_taken(name: str) -> None:
    for data in PARSERS[name].seeds:
        assert PARSERS[name].takes(data)


@pytest.mark.parametrize("name", PARSERS)
def test_damaged_input_is_taken_or_refused(name: str) -> None:
    parser, found = PARSERS[name], corpus(name)
    with bounded_memory():
        for data in (b"", *found, *damaged([*parser.seeds, *found], SEED, COUNT)):
            check(parser, data)


def test_a_defect_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kinds of defects are another error, too much memory, and no end."""

    def no_end(_: bytes) -> None:
        while True:
            pass

    def parser(run: Callable[[bytes], object]) -> Parser:
        return Parser(run=run, refuses=(ValueError,), seeds=())

    check(parser(lambda data: int(data)), b"x")
    with pytest.raises(KeyError):
        check(parser(lambda data: {b"y": 1}[data]), b"x")
    # More than once the bound, since this process may have given memory back meanwhile.
    with bounded_memory(), pytest.raises(MemoryError):
        check(parser(lambda data: [bytes(MOST_BYTES) for _ in range(64)]), b"x")
    monkeypatch.setattr("tests.fuzz.parser.MOST_S", 0.2)
    with pytest.raises(TimeoutError):
        check(parser(no_end), b"x")
