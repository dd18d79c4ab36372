"""Every parser of tests/fuzz/parsers.py: takes its seeds, and of damaged ones takes or refuses each in bounds."""

from __future__ import annotations

import pytest

from tests.fuzz.mutate import damaged
from tests.fuzz.parser import bounded_memory, bounded_time, corpus
from tests.fuzz.parsers import PARSERS

#: Inputs of each parser. scripts/fuzz goes further.
COUNT, SEED = 300, 1


@pytest.mark.parametrize("name", PARSERS)
def test_seeds_are_taken(name: str) -> None:
    for data in PARSERS[name].seeds:
        assert PARSERS[name].takes(data)


@pytest.mark.parametrize("name", PARSERS)
def test_damaged_input_is_taken_or_refused(name: str) -> None:
    parser, found = PARSERS[name], corpus(name)
    inputs = [b"", *found, *damaged([*parser.seeds, *found], SEED, COUNT)]
    with bounded_memory():
        for data in inputs:
            with bounded_time():
                try:
                    parser.takes(data)
                except BaseException as error:
                    error.add_note(f"input: {data!r}")
                    raise
