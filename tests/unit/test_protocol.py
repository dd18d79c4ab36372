"""migrate/protocol.py: every message survives the wire; nothing that is not one does."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import message as messages
from migrate.protocol import ANSWERS, PAGES, REQUESTS, Message, ProtocolError, decode, encode

EVERY = (*REQUESTS, *PAGES, *ANSWERS)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
#: For each declared type, a value of it and one of each other kind.
VALUES: dict[Any, Any] = {
    str: "text",
    int: 7,
    bool: True,
    float: 1.5,
    list: [1, ["two", None]],
    dict: {"three": 3},
    dict | None: None,
    list | None: None,
}


def fields_of(kind: type[Message]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.name != "payload"}


def example(kind: type[Message]) -> dict[str, Any]:
    return {name: VALUES[hint] for name, hint in fields_of(kind).items()}


def wire(kind: type[Message], /, **changed: Any) -> bytes:
    return json.dumps({"type": kind.__name__, **example(kind), **changed}).encode()


EVERY_FIELD = [(kind, name) for kind in EVERY for name in fields_of(kind)]
NAMES = [f"{kind.__name__}-{name}" for kind, name in EVERY_FIELD]


@pytest.mark.parametrize("kind", EVERY)
def test_every_message_survives(kind: type[Message]) -> None:
    message = kind(payload=b"bytes", **example(kind))
    assert decode(encode(message), b"bytes", (kind,)) == message


def test_no_message_is_of_both_directions_and_none_of_neither() -> None:
    assert len(EVERY) == len(set(EVERY))
    assert set(EVERY) == set(messages._REGISTRY.values())


@pytest.mark.parametrize("kind", EVERY)
def test_the_wrong_direction_is_refused(kind: type[Message]) -> None:
    wrong = ANSWERS if kind in REQUESTS else REQUESTS
    with pytest.raises(ProtocolError, match=kind.__name__):
        decode(wire(kind), b"", wrong)


@pytest.mark.parametrize(("kind", "name"), EVERY_FIELD, ids=NAMES)
def test_a_field_of_another_type_is_refused(kind: type[Message], name: str) -> None:
    """On this wire true and false are no numbers, nor is 1.0 one."""
    declared = fields_of(kind)[name]
    values: list[object] = ["text", 7, True, False, 1.5, [], {}, None]
    for value in values:
        fits = type(value) is declared or type(value) in get_args(declared)
        if not fits:
            with pytest.raises(ProtocolError):
                decode(wire(kind, **{name: value}), b"", EVERY)


@pytest.mark.parametrize(("kind", "name"), EVERY_FIELD, ids=NAMES)
def test_a_missing_field_is_refused_or_has_its_default(kind: type[Message], name: str) -> None:
    fields = json.loads(wire(kind))
    del fields[name]
    header = json.dumps(fields).encode()
    [declared] = [field for field in dataclasses.fields(kind) if field.name == name]
    if declared.default_factory is dataclasses.MISSING:
        with pytest.raises(ProtocolError, match=name):
            decode(header, b"", EVERY)
    else:
        assert getattr(decode(header, b"", EVERY), name) == declared.default_factory()


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("name", ["unknown", "payload", "type_", "__class__", "", "x" * 1000])
def test_an_unknown_field_is_refused(kind: type[Message], name: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(wire(kind, **{name: "x"}), b"", EVERY)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"null",
        b"7",
        b'"Ping"',
        b"[]",
        b'["Ping"]',
        b"{}",
        b'{"type":null}',
        b'{"type":["Ping"]}',
        b'{"type":{}}',
        b'{"type":"ping"}',
        b'{"type":"Message"}',
        b'{"type":"ProtocolError"}',
        b'{"type":"' + b"x" * 100_000 + b'"}',
        b"\xff\xfe",
        b'{"type":"Ping"}{"type":"Ping"}',
        b'{"type":"Clock","monotonic_ns":' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"type":"Done","stamps":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    ],
    ids=lambda header: repr(header[:24]),
)
def test_what_is_no_message_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(header, b"", EVERY)
    assert len(str(caught.value)) < 200


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_a_protocol_error(header: bytes) -> None:
    check(header)


@given(json_values)
def test_any_json_is_a_message_or_a_protocol_error(value: Any) -> None:
    check(json.dumps(value).encode())


@given(st.sampled_from(EVERY), st.dictionaries(st.text(max_size=12), json_values, max_size=3), st.data())
def test_any_change_of_a_message_is_a_message_or_a_protocol_error(
    kind: type[Message], added: dict[str, Any], data: st.DataObject
) -> None:
    fields = {**example(kind), **added}
    for name in fields_of(kind):
        change = data.draw(st.sampled_from(["keep", "drop", "replace"]))
        if change == "drop":
            fields.pop(name, None)
        elif change == "replace":
            fields[name] = data.draw(json_values)
    check(json.dumps({"type": kind.__name__, **fields}).encode())


def check(header: bytes) -> None:
    try:
        message = decode(header, b"p", EVERY)
    except ProtocolError:
        return
    # What was taken is what it says: it can be sent on and reads the same (NaN is equal to nothing).
    again = decode(encode(message), b"p", EVERY)
    assert repr(again) == repr(message)
