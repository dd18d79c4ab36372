"""Every message survives the wire, and whatever is not one of them is a ProtocolError and nothing else."""

import contextlib
import dataclasses
import json
import types
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import protocol
from migrate.protocol import ANSWERS, REQUESTS, Message, ProtocolError

ALL = REQUESTS + ANSWERS
SAMPLES: dict[Any, Any] = {str: "text \N{SNOWMAN}", int: 1 << 60, bool: True, list: [1, "a", None], dict: {"a": [1]}}


def sample(kind: type[Message], payload: bytes = b"") -> Message:
    hints = typing.get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):
        if field.name != "payload":
            hint = hints[field.name]
            values[field.name] = SAMPLES[typing.get_args(hint)[0] if isinstance(hint, types.UnionType) else hint]
    return kind(payload=payload, **values)


def header(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def hello(**changes: Any) -> dict[str, Any]:
    return {"type": "Hello", "version": 1, "migration_id": "id", "runtime": "runc", "container_id": "web", **changes}


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: str(kind.__name__))
@pytest.mark.parametrize("payload", [b"", b"\0\xff"])
def test_round_trip(kind: type[Message], payload: bytes) -> None:
    message = sample(kind, payload)
    assert protocol.decode(protocol.encode(message), payload, ALL) == message


def test_every_message_goes_exactly_one_way() -> None:
    assert set(ALL) == set(Message.__subclasses__())
    assert not set(REQUESTS) & set(ANSWERS)
    assert len({kind.__name__ for kind in ALL}) == len(ALL)


def test_none_where_it_is_declared() -> None:
    message = protocol.Prepare(bundle="/b", rootfs="/r", shared=False, config={}, network=None)
    assert protocol.decode(protocol.encode(message), b"", REQUESTS) == message


def test_defaults_may_be_left_out() -> None:
    assert protocol.decode(header(type="Done"), b"", ANSWERS) == protocol.Done()


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: str(kind.__name__))
def test_the_other_direction_is_refused(kind: type[Message]) -> None:
    with pytest.raises(ProtocolError, match="not allowed here"):
        protocol.decode(protocol.encode(sample(kind)), b"", ANSWERS if kind in REQUESTS else REQUESTS)


def required_fields() -> list[tuple[type[Message], str]]:
    return [
        (kind, field.name)
        for kind in ALL
        for field in dataclasses.fields(kind)
        if field.name != "payload" and field.default_factory is dataclasses.MISSING
    ]


@pytest.mark.parametrize(("kind", "name"), required_fields())
def test_each_required_field_is_required(kind: type[Message], name: str) -> None:
    fields = json.loads(protocol.encode(sample(kind)))
    del fields[name]
    with pytest.raises(ProtocolError, match=f"'{name}' is missing"):
        protocol.decode(header(**fields), b"", ALL)


@pytest.mark.parametrize(("kind", "name"), required_fields())
@pytest.mark.parametrize("value", [None, True, False, 1, 1.5, "text", [], {}], ids=repr)
def test_each_field_takes_its_declared_type_alone(kind: type[Message], name: str, value: object) -> None:
    hint = typing.get_type_hints(kind)[name]
    declared = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    fields = json.loads(protocol.encode(sample(kind))) | {name: value}
    with contextlib.nullcontext() if type(value) in declared else pytest.raises(ProtocolError, match="not as declared"):
        protocol.decode(header(**fields), b"", ALL)


@pytest.mark.parametrize(
    "data",
    [
        header(type="Nothing"),
        header(type=None),
        header(type=["Hello"]),
        header(type={}),
        header(type="Message", payload=""),
        header(type="x" * 100_000),
        header(),
        header(**hello(more=1)),
        header(**hello(payload="")),
        header(type="Ping", payload=""),
        header(**hello(**{"x" * 1000: 1})),
        b"",
        b"null",
        b"1",
        b'"Hello"',
        b"[]",
        b'["type"]',
        b"{",
        b"\xff\xfe",
        b"\0",
        b"{} {}",
        b"1" * 10_000,
    ],
    ids=lambda data: repr(data[:40]),
)
def test_not_a_message(data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.decode(data, b"", ALL)
    assert len(str(caught.value)) < 200


def test_nesting_too_deep_for_the_parser_is_not_a_message() -> None:
    with pytest.raises(ProtocolError):
        protocol.decode(b"[" * 200_000, b"", ALL)


@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        protocol.decode(data, b"", ALL)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
FIELDS = sorted({field.name for kind in ALL for field in dataclasses.fields(kind)})


@given(
    name=st.sampled_from([kind.__name__ for kind in ALL]),
    fields=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=10), JSON, max_size=6),
)
def test_random_fields(name: str, fields: dict[str, object]) -> None:
    with contextlib.suppress(ProtocolError):
        message = protocol.decode(header(**(fields | {"type": name})), b"", ALL)
        assert type(message).__name__ == name


@given(JSON)
def test_random_json(value: object) -> None:
    with contextlib.suppress(ProtocolError):
        protocol.decode(json.dumps(value).encode(), b"", ALL)
