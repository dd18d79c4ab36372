"""JSON that another program defines, compared with what is needed of it before anything is taken out of it.

It has members without number that do not matter here, and may have more tomorrow; they are neither looked at nor lost.
For data that this project defines, and refuses any other, there is checkpoint/schema.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint.errors import DataInvalid

#: A type; a list of one shape, for a list of any length; a dict of the shapes of the members that are needed;
#: Each; or Maybe.
Shape = Any


@dataclass(frozen=True)
class Each:
    """An object with members of any names, all of one shape."""

    shape: Shape


@dataclass(frozen=True)
class Maybe:
    """A shape that may be null, or a member that may not be there."""

    shape: Shape


def read(path: Path, shape: Shape) -> Any:
    """What JSON in a file says. Raises DataInvalid when the file is not there or damaged."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataInvalid(f"{path} cannot be read: {error.strerror}") from error
    return parse(text, shape, str(path))


def parse(text: str | bytes, shape: Shape, what: str) -> Any:
    """What JSON says. Raises DataInvalid unless it has that shape."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataInvalid(f"{what} is damaged: it is not JSON ({error})") from error
    return check(value, shape, what)


def check(value: Any, shape: Shape, what: str) -> Any:
    """The value. Raises DataInvalid, which names the first member that has another shape."""
    for where in _differences(value, shape, ""):
        raise DataInvalid(
            f"{what} is damaged: {where.lstrip('.') or 'all of it'} is missing or of another kind"
        )
    return value


def _differences(value: Any, shape: Shape, at: str) -> Iterator[str]:
    """Where a value has not that shape."""
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
    # To Python a bool is an int; to JSON it is not.
    elif (
        not isinstance(shape, type)
        or not isinstance(value, shape)
        or (shape is int and isinstance(value, bool))
    ):
        yield at
