"""Readers that turn data from outside into declared types, and refuse data that does not fit.

A reader checks exactly what a class declares. `read(kind, value)` takes a value as json.loads
returns it. A kind is one of

    str, int, bool              JSON's true and false are no int, nor is a float
    X | None                    null, or an X
    tuple[X, ...]               a list
    Mapping[K, X]               an object; K is a kind of str
    a NamedTuple class          a list of exactly its fields
    a frozen dataclass          an object of its fields. A field with a default may be missing;
                                a field that is not declared is refused
    Annotated[X, bounds...]     X within the bounds, which are the classes below

Every kind is bounded: one that is declared without bounds has the MOST_... ones below. A class may
have a method `check`, which raises DataInvalid if its fields do not fit each other. No I/O here.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from checkpoint.errors import DataInvalid

#: Bounds of kinds that are declared without any: characters of a str, items of a list or object,
#: the largest int (the smallest is 0).
MOST_CHARACTERS, MOST_ITEMS, MOST_NUMBER = 4096, 65_536, (1 << 63) - 1
#: The most characters of a value that an error quotes.
SHOWN_CHARACTERS = 40

Reader = Callable[[object], Any]


@dataclass(frozen=True)
class Range:
    """An int from `low` to `high`, both included, in steps of `step` from `low` on."""

    low: int
    high: int
    step: int = 1


@dataclass(frozen=True)
class Length:
    """A bound of at most `most` characters of a str, or items of a list or object."""

    most: int


@dataclass(frozen=True)
class Pattern:
    """A form of a str: the regular expression must match all of it."""

    regex: str


@dataclass(frozen=True)
class Check:
    """A condition on a value: `holds` must return true for it.

    `what` names the condition, as the end of the error's sentence "... is not WHAT".
    """

    what: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Harmless:
    """Text for people, which is made harmless and never refused.

    The text is cut to `most` characters, and no character of it controls a terminal (`harmless`).
    """

    most: int


@dataclass(frozen=True)
class FreeForm:
    """A bound of a Mapping that holds any JSON, at most `depth` levels deep and `values` large.

    `values` counts the items of all lists and objects in the Mapping, and its own.
    """

    depth: int
    values: int


#: A JSON object that another program defines. Code that uses a value of it checks that value then.
JsonObject = Annotated[Mapping[str, Any], FreeForm(depth=32, values=65_536)]


def read(kind: Any, value: object) -> Any:
    """Return `value` as a `kind`.

    Raises DataInvalid, which names the field that does not fit, and TypeError for a `kind` that is
    none of this module's.
    """
    return _reader(kind)(value)


def plain(value: object) -> object:
    """Return a dataclass or Mapping as a dict, for json.dumps(default=plain).

    Raises TypeError for any other value.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not of the declared types")


def harmless(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return text of at most `most` characters that controls no terminal.

    Characters that are not printable become escapes, as `ascii` writes them.
    """
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:most])
    return shown[:most]


def fields_of(kind: Any) -> Mapping[str, Any]:
    """Return {name: declared kind} of the fields of a dataclass or NamedTuple."""
    return _fields_of(kind)


@functools.cache
def _fields_of(kind: Any) -> Mapping[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    names = getattr(kind, "_fields", None) or [field.name for field in dataclasses.fields(kind)]
    return {name: hints[name] for name in names}


@functools.cache
def _reader(kind: Any) -> Reader:
    bounds: tuple[Any, ...] = ()
    if get_origin(kind) is Annotated:
        kind, *extra = get_args(kind)
        bounds = tuple(extra)
    made = _scalar(kind, bounds) or _collection(kind, bounds)
    if made is None:
        raise TypeError(f"{kind} cannot be declared for data from outside")
    for bound in bounds:
        if isinstance(bound, Check):
            made = _checked(made, bound)
    return made


def _scalar(kind: Any, bounds: tuple[Any, ...]) -> Reader | None:
    if kind is bool:
        return _read_bool
    if kind is int:
        limits = _bound(bounds, Range) or Range(0, MOST_NUMBER)
        return _int_reader(limits)
    if kind is str:
        if (text := _bound(bounds, Harmless)) is not None:
            return lambda value: harmless(_read_str(value), text.most)
        length = _bound(bounds, Length) or Length(MOST_CHARACTERS)
        return _str_reader(
            length.most, [re.compile(each.regex) for each in bounds if isinstance(each, Pattern)]
        )
    return None


def _collection(kind: Any, bounds: tuple[Any, ...]) -> Reader | None:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType) and len(arguments) == 2 and type(None) in arguments:
        [inner] = [_reader(each) for each in arguments if each is not type(None)]
        return lambda value: None if value is None else inner(value)
    most = (_bound(bounds, Length) or Length(MOST_ITEMS)).most
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _tuple_reader(_reader(arguments[0]), most)
    if origin is Mapping:
        if (free := _bound(bounds, FreeForm)) is not None:
            return lambda value: _read_free(value, free)
        return _mapping_reader(_reader(arguments[0]), _reader(arguments[1]), most)
    if _is_named_tuple(kind):
        return _named_tuple_reader(kind)
    return _dataclass_reader(kind) if dataclasses.is_dataclass(kind) else None


def _bound(bounds: tuple[Any, ...], kind: type[Any]) -> Any:
    return next((bound for bound in bounds if isinstance(bound, kind)), None)


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def shown(value: object) -> str:
    """Return a value as an error quotes it: short, and harmless to a terminal."""
    if isinstance(value, str):
        return ascii(value[:SHOWN_CHARACTERS])
    if value is None or isinstance(value, int | float):
        return repr(value)[:SHOWN_CHARACTERS]
    return f"a {type(value).__name__}"


def _read_bool(value: object) -> bool:
    if value is not True and value is not False:
        raise DataInvalid(f"{shown(value)} is neither true nor false")
    return value


def _read_str(value: object) -> str:
    if type(value) is not str:
        raise DataInvalid(f"{shown(value)} is not text")
    return value


def _int_reader(limits: Range) -> Reader:
    allowed = range(limits.low, limits.high + 1, limits.step)

    def read_int(value: object) -> int:
        if type(value) is not int:
            raise DataInvalid(f"{shown(value)} is not a whole number")
        if value not in allowed:
            steps = f" in steps of {limits.step}" if limits.step > 1 else ""
            raise DataInvalid(f"{shown(value)} is not from {limits.low} to {limits.high}{steps}")
        return value

    return read_int


def _str_reader(most: int, patterns: list[re.Pattern[str]]) -> Reader:
    def read_str(value: object) -> str:
        text = _read_str(value)
        if len(text) > most:
            raise DataInvalid(f"{shown(text)}... is longer than {most} characters")
        for pattern in patterns:
            if not pattern.fullmatch(text):
                raise DataInvalid(f"{shown(text)} is not of the form {pattern.pattern}")
        return text

    return read_str


def _checked(inner: Reader, check: Check) -> Reader:
    def read_checked(value: object) -> Any:
        found = inner(value)
        if not check.holds(found):
            raise DataInvalid(f"{shown(found)} is not {check.what}")
        return found

    return read_checked


def _read_inside(place: str, reader: Reader, value: object) -> Any:
    try:
        return reader(value)
    except DataInvalid as error:
        raise error.inside(place) from None


def _read_list(value: object, most: int) -> list[Any]:
    if type(value) is not list:
        raise DataInvalid(f"{shown(value)} is not a list")
    if len(value) > most:
        raise DataInvalid(f"{len(value)} items are more than {most}")
    return value


def _read_object(value: object, most: int) -> dict[str, Any]:
    if type(value) is not dict:
        raise DataInvalid(f"{shown(value)} is not an object")
    if len(value) > most:
        raise DataInvalid(f"{len(value)} items are more than {most}")
    return value


def _tuple_reader(inner: Reader, most: int) -> Reader:
    def read_tuple(value: object) -> tuple[Any, ...]:
        items = _read_list(value, most)
        try:
            return tuple([inner(item) for item in items])
        except DataInvalid:
            for index, item in enumerate(items):
                _read_inside(f"[{index}]", inner, item)
            raise

    return read_tuple


def _mapping_reader(keys: Reader, values: Reader, most: int) -> Reader:
    def read_mapping(value: object) -> Mapping[str, Any]:
        found = {}
        for key, item in _read_object(value, most).items():
            found[_read_inside(f"[{shown(key)}]", keys, key)] = _read_inside(
                f"[{shown(key)}]", values, item
            )
        return found

    return read_mapping


def _named_tuple_reader(kind: Any) -> Reader:
    names, readers = kind._fields, [_reader(declared) for declared in fields_of(kind).values()]
    check = getattr(kind, "check", None)

    def read_named_tuple(value: object) -> Any:
        items = _read_list(value, len(names))
        if len(items) != len(names):
            raise DataInvalid(f"{len(items)} items are not {', '.join(names)}")
        try:
            made = kind._make([reader(item) for reader, item in zip(readers, items, strict=True)])
        except DataInvalid:
            for name, reader, item in zip(names, readers, items, strict=True):
                _read_inside(f".{name}", reader, item)
            raise
        if check is not None:
            check(made)
        return made

    return read_named_tuple


def _dataclass_reader(kind: Any) -> Reader:
    return lambda value: read_fields(kind, _read_object(value, MOST_ITEMS), {})


def read_fields(kind: Any, fields: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """Return a dataclass of class `kind` with these fields, and with the fields in `given`.

    `fields` are checked, `given` are not. Raises DataInvalid, which names the field that does not
    fit.
    """
    readers, required, check = _parts(kind, frozenset(given))
    found = dict(given)
    for name, item in fields.items():
        if name not in readers:
            raise DataInvalid(f"there is no field {shown(name)}")
        found[name] = _read_inside(f".{name}", readers[name], item)
    if missing := required - found.keys():
        raise DataInvalid(f"field {min(missing)!r} is missing")
    made = kind(**found)
    if check is not None:
        check(made)
    return made


def make_ready(kind: Any, given: frozenset[str]) -> None:
    """Build now what the first `read_fields` of a dataclass would build.

    That takes up to a millisecond, once for each `kind` and `given`.
    """
    _parts(kind, given)


@functools.cache
def _parts(
    kind: Any, given: frozenset[str]
) -> tuple[dict[str, Reader], set[str], Callable[[Any], None] | None]:
    """Return the readers of the fields not in `given`, the required fields, and the `check`.

    The required fields are those without a default, given ones included. The class's own `check` is
    None if it has none.
    """
    required = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    readers = {
        name: _reader(declared) for name, declared in fields_of(kind).items() if name not in given
    }
    return readers, required, getattr(kind, "check", None)


def _read_free(value: object, bounds: FreeForm) -> Mapping[str, Any]:
    """Return `value` unless it exceeds `bounds`. Raises DataInvalid.

    The walk goes level by level, because a recursive one could exhaust the stack of this program.
    """
    found = _read_object(value, bounds.values)
    level: list[Any] = [found]
    count = 0
    for _ in range(bounds.depth):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, int) and abs(item) >= 1 << 64:
                raise DataInvalid("a number in it is over the bound")
        count += len(inner)
        if count > bounds.values:
            raise DataInvalid(f"it holds more than {bounds.values} values")
        level = inner
        if not level:
            return found
    raise DataInvalid(f"it is deeper than {bounds.depth} levels")
