"""Strategies of hypothesis for what may come over the wire.

They are made of what the messages declare (checkpoint/schema.py).
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from hypothesis import strategies as st

from checkpoint import bounded, schema
from checkpoint.errors import DataInvalid
from checkpoint.schema import Check, FreeForm, Harmless, Length, Pattern, Range
from migrate.wire.message import PAYLOAD, Message

#: Values of any JSON.
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
NAME = st.text("abc\n\udcff é'\\", min_size=1, max_size=6)
PATH = st.lists(NAME, min_size=1, max_size=4).map("/".join)
#: Strategies of those that chance would rarely meet.
KNOWN: dict[Any, st.SearchStrategy[Any]] = {
    bounded.AbsolutePath: PATH.map("/".__add__),
    bounded.ContainerPath: PATH.map("/".__add__),
    bounded.RelativePath: PATH,
    bounded.TreePath: st.just("") | PATH,
    bounded.Ipv4Address: st.ip_addresses(v=4).map(str),
    bounded.IpAddress: st.ip_addresses().map(str),
    bounded.StationAddress: st.ip_addresses(v=4).map(lambda address: f"{address}/24"),
    bounded.RouteDestination: st.just("default") | st.ip_addresses(v=6).map(str),
    bounded.DstId: st.integers(0, (1 << 56) - 1).flatmap(
        lambda n: st.sampled_from([n << 8 | 1, n << 8 | 2])
    ),
    bounded.PageAddress: st.integers(0, (1 << 45) - 1).map(lambda page: page * 4096),
    bounded.PageCount: st.integers(1, 1 << 20),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy of JSON that is a `kind`."""
    if kind in KNOWN:
        return KNOWN[kind]
    bounds: tuple[Any, ...] = ()
    if get_origin(kind) is Annotated:
        kind, *extra = get_args(kind)
        bounds = tuple(extra)
    found = _values(kind, bounds)
    for bound in bounds:
        if isinstance(bound, Check):
            found = found.filter(bound.holds)
    return found


def _values(kind: Any, bounds: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is bool:
        return st.booleans()
    if kind is int:
        limits = next(
            (each for each in bounds if isinstance(each, Range)), Range(0, schema.MOST_NUMBER)
        )
        return st.integers(limits.low, limits.high)
    if kind is str:
        patterns = [each.regex for each in bounds if isinstance(each, Pattern)]
        harmless = any(isinstance(each, Harmless) for each in bounds)
        plain = (
            st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=8)
            if harmless
            else st.text(max_size=8)
        )
        return (
            st.from_regex(re.compile(patterns[0], re.ASCII), fullmatch=True) if patterns else plain
        )
    if origin in (Union, types.UnionType):
        return st.none() | values(next(each for each in arguments if each is not type(None)))
    most = min(4, next((each.most for each in bounds if isinstance(each, Length)), 4))
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=most)
    if origin is Mapping:
        if any(isinstance(each, FreeForm) for each in bounds):
            number = (
                st.integers(-(1 << 63), 1 << 63) | st.booleans() | st.none() | st.text(max_size=4)
            )
            return st.dictionaries(
                st.text(max_size=4), number | st.lists(number, max_size=2), max_size=3
            )
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=most)
    declared = {name: hint for name, hint in schema.fields_of(kind).items() if name != PAYLOAD}
    if not dataclasses.is_dataclass(kind) and not issubclass(kind, Message):
        return (
            st.tuples(*map(values, declared.values()))
            .map(list)
            .filter(lambda found: _fits(kind, found))
        )
    fields = st.fixed_dictionaries({name: values(hint) for name, hint in declared.items()})
    return fields if issubclass(kind, Message) else fields.filter(lambda found: _fits(kind, found))


def _fits(kind: Any, value: Any) -> bool:
    try:
        schema.read(kind, value)
    except DataInvalid:
        return False
    return True


def payload_of(kind: type[Message], fields: Mapping[str, Any]) -> bytes:
    """Return a payload as long as a message with these fields must have it."""
    if PAYLOAD not in schema.fields_of(kind):
        return b""
    parts: list[Any] = next(
        (fields[name] for name in ("pieces", "frames", "files") if name in fields), []
    )
    return bytes(sum(size for _, size in parts))
