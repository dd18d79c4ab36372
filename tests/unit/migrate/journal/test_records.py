"""Tests of migrate/journal/records.py: an entry comes back as it was, and nothing else does."""

from __future__ import annotations

import json

import pytest

from checkpoint.errors import DataInvalid
from migrate.journal.records import TARGET, Ended, Entered, Entry, decode, encode
from tests.unit.helpers.begun import AT_MS, begun

ENTRIES: list[Entry] = [
    begun(),
    begun(TARGET),
    Entered(at_ms=AT_MS, state="rolling back"),
    Ended(at_ms=AT_MS, outcome="done"),
    Ended(at_ms=AT_MS, outcome="rolled back", error="the link was lost"),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: type(entry).__name__)
def test_an_entry_is_read_as_it_was_written(entry: Entry) -> None:
    assert decode(json.loads(json.dumps(encode(entry)))) == entry


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"entry": "Entered"},
        {"entry": "Killed", "at_ms": 1, "state": "done"},
        {"entry": "Entered", "at_ms": -1, "state": "done"},
        {"entry": "Entered", "at_ms": 1, "state": "\x1b[2J"},
        {"entry": "Entered", "at_ms": 1, "state": "done", "more": 1},
        {"entry": ["Entered"], "at_ms": 1, "state": "done"},
        {**encode(begun()), "init": None},
        {**encode(begun()), "destination": None},
        {**encode(begun()), "migration_id": "../../etc/cron.d"},
    ],
)
def test_what_is_no_entry_is_refused(found: dict[str, object]) -> None:
    with pytest.raises(DataInvalid):
        decode(found)
