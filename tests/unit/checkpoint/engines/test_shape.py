"""Tests of checkpoint/engines/shape.py: JSON of the shape that it should have, and of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.shape import Each, Maybe, check, parse, read
from checkpoint.errors import DataInvalid

SHAPE = {"name": str, "pid": int, "streams": [str], "config": {"root": Maybe({"path": str})}}
GOOD: dict[str, Any] = {
    "name": "x",
    "pid": 7,
    "streams": ["a"],
    "config": {"root": {"path": "/"}},
    "more": 1,
}


@pytest.mark.parametrize(
    "change", [{}, {"streams": []}, {"config": {"root": None}}, {"config": {}}]
)
def test_json_of_the_shape_is_taken(change: dict[str, Any]) -> None:
    value = {**GOOD, **change}
    assert parse(json.dumps(value), SHAPE, "it") == value


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ([], "all of it"),
        (None, "all of it"),
        ({**GOOD, "name": 1}, "name"),
        ({**GOOD, "pid": True}, "pid"),
        ({**GOOD, "pid": "7"}, "pid"),
        ({**GOOD, "streams": None}, "streams"),
        ({**GOOD, "streams": {"a": "b"}}, "streams"),
        ({**GOOD, "streams": ["a", 2]}, "streams[1]"),
        ({**GOOD, "config": None}, "config"),
        ({**GOOD, "config": {"root": []}}, "config.root"),
        ({**GOOD, "config": {"root": {"path": 1.5}}}, "config.root.path"),
    ],
)
def test_json_of_another_shape_is_refused_with_the_place(value: Any, where: str) -> None:
    with pytest.raises(DataInvalid) as caught:
        check(value, SHAPE, "it")
    assert str(caught.value) == f"it is damaged: {where} is missing or of another kind"


def test_each_member_of_an_object_is_checked() -> None:
    assert check({"a": 1, "b": 2}, Each(int), "it") == {"a": 1, "b": 2}
    assert check({}, Each(int), "it") == {}
    for value, where in (([], "all of it"), ({"a": 1, "b": None}, "['b']")):
        with pytest.raises(DataInvalid) as caught:
            check(value, Each(int), "it")
        assert str(caught.value) == f"it is damaged: {where} is missing or of another kind"


@pytest.mark.parametrize("text", ["", "{", "\x00", '{"a": ' * 100_000, b"\xff\xfe\xfd", "9" * 5000])
def test_a_text_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(DataInvalid, match="is damaged"):
        parse(text, SHAPE, "it")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="none"):
        read(tmp_path / "none", SHAPE)
    with pytest.raises(DataInvalid):
        read(tmp_path, SHAPE)
