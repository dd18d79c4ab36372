"""Tests of checkpoint/undo.py: what was made is removed, by this process or by another."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from checkpoint.errors import DataInvalid
from checkpoint.files.made import MadeDirectory
from checkpoint.host.identity import PathRecord
from checkpoint.undo import Made, Undo, read


class Numbered(Made):
    """A thing that is removed by an entry in a list."""

    number: int
    paths_of: tuple[PathRecord, ...] = ()

    def __str__(self) -> str:
        return f"thing {self.number}"

    def remove(self) -> None:
        if self.number in BROKEN:
            raise OSError(f"{self} stays")
        REMOVED.append(self.number)


REMOVED: list[int] = []
BROKEN: set[int] = set()


@pytest.fixture(autouse=True)
def afresh() -> None:
    REMOVED.clear()
    BROKEN.clear()


def test_what_was_made_is_removed_latest_first() -> None:
    noted: list[tuple[Made, bool]] = []
    with Undo(lambda *each: noted.append(each)) as undo:
        for number in range(3):
            undo.made(Numbered(number=number))
        assert REMOVED == []
    assert REMOVED == [2, 1, 0]
    assert noted == [(Numbered(number=number), False) for number in range(3)]


def test_a_passing_thing_is_removed_when_all_went_well() -> None:
    noted: list[tuple[Made, bool]] = []
    with Undo(lambda *each: noted.append(each)) as undo:
        for number in range(3):
            undo.passing(Numbered(number=number))
        BROKEN.add(1)
        with pytest.raises(OSError, match="thing 1 stays"):
            undo.settle()
        assert sorted(REMOVED) == [0, 2]
        undo.passing(Numbered(number=7))
    assert sorted(REMOVED) == [0, 2], "an undo has no use for it"
    assert noted[0] == (Numbered(number=0), True)


def test_one_that_cannot_be_removed_keeps_no_other() -> None:
    BROKEN.add(1)
    undo = Undo()
    for number in range(3):
        undo.made(Numbered(number=number))
    with pytest.raises(OSError, match="thing 1 stays"):
        undo.close()
    assert REMOVED == [2, 0]


def test_a_thing_that_could_not_be_noted_is_removed_all_the_same() -> None:
    def full(*_: object) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"), Undo(full) as undo:
        undo.made(Numbered(number=7))
    assert REMOVED == [7]


@pytest.mark.parametrize("kept", [True, False])
def test_paths_are_held_until_the_thing_is_removed_or_kept(tmp_path: Path, kept: bool) -> None:
    before = set(os.listdir("/proc/self/fd"))
    undo = Undo()
    record = PathRecord.of(tmp_path)
    undo.made(Numbered(number=1, paths_of=(record,)))
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    if kept:
        undo.pop_all()
    else:
        undo.close()
    assert set(os.listdir("/proc/self/fd")) == before
    assert ([] if kept else [1]) == REMOVED


def test_another_process_reads_what_was_made(tmp_path: Path) -> None:
    thing = MadeDirectory(path=PathRecord.of(tmp_path), whole=False)
    assert read(json.loads(json.dumps(thing.plain()))) == thing
    assert thing.paths == (thing.path,)
    assert thing.is_certain


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"kind": "Undo"},
        {"kind": ["Numbered"], "number": 1},
        {"kind": "Numbered"},
        {"kind": "Numbered", "number": "1"},
        {"kind": "Numbered", "number": 1, "paths_of": [["/etc", 0, 1]]},
    ],
)
def test_what_is_no_thing_is_refused(found: dict[str, object]) -> None:
    with pytest.raises(DataInvalid):
        read(found)


def test_a_path_without_anything_unique_is_not_certain() -> None:
    record = PathRecord("/srv/web", 7, 7, "")
    assert not Numbered(number=1, paths_of=(record,)).is_certain
    assert Numbered(number=1).is_certain
