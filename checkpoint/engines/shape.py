"""Checks of JSON that another program defines, made before anything is read from it.

A check covers the members that are read. Such JSON has many more, and may have others tomorrow:
they are neither checked nor removed. JSON that this project defines is read by
checkpoint/schema.py, which refuses unknown members.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint.errors import DataInvalid

#: One of: a type; a list with one shape, for a list of any length; a dict of the shapes of the
#: members that are needed; Each; Maybe.
Shape = Any


@dataclass(frozen=True)
class Each:
    """The shape of an object with members of any names, all of the shape `shape`."""

    shape: Shape


@dataclass(frozen=True)
class Maybe:
    """The shape of a value or member that may be null or absent, and is of `shape` otherwise."""

    shape: Shape


def read(path: Path, shape: Shape) -> Any:
    """Return the value of the JSON in a file.

    Raises DataInvalid when the file cannot be read, is not JSON, or has another shape.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataInvalid(f"{path} cannot be read: {error.strerror}") from error
    return parse(text, shape, str(path))


def parse(text: str | bytes, shape: Shape, what: str) -> Any:
    """Return the value of JSON. Raises DataInvalid if it is not JSON, or has another shape.

    `what` names the JSON in the error.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataInvalid(f"{what} is damaged: it is not JSON ({error})") from error
    return check(value, shape, what)


def check(value: Any, shape: Shape, what: str) -> Any:
    """Return `value` if it has the shape.

    Otherwise raises DataInvalid, which calls the value `what` and names the first member that has
    another shape.
    """
    for where in _differences(value, shape, ""):
        raise DataInvalid(
            f"{what} is damaged: {where.lstrip('.') or 'all of it'} is missing or of another kind"
        )
    return value


def _differences(value: Any, shape: Shape, at: str) -> Iterator[str]:
    """Yield the places in a value that do not have the shape, such as `.Mounts[0].Type`.

    `at` is the place of the value itself.
    """
    if isinstance(shape, Maybe):
        if value is not None:
            yield from _differences(value, shape.shape, at)
    elif isinstance(shape, Each) and isinstance(value, dict):
        for name, member in value.items():
            yield from _differences(member, shape.shape, f"{at}[{name!r}]")
    elif isinstance(shape, list) and isinstance(value, list):
        for index, member in enumerate(value):
            yield from _differences(member, shape[0], f"{at}[{index}]")
    elif isinstance(shape, dict) and isinstance(value, dict):
        for name, needed in shape.items():
            yield from _differences(value.get(name), needed, f"{at}.{name}")
    # In Python a bool is an int; in JSON it is not.
    elif (
        not isinstance(shape, type)
        or not isinstance(value, shape)
        or (shape is int and isinstance(value, bool))
    ):
        yield at
