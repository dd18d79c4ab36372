"""Tests of migrate/wire/message.py: any bytes are a message or a ProtocolError."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.wire.protocol import (
    Message,
    ProtocolError,
    decode,
    encode,
)
from tests.unit.migrate.wire.messages import fields_of, messages, wire
from tests.wire import JSON, payload_of

SLOW = settings(suppress_health_check=list(HealthCheck), deadline=None)


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
        b'{"type":"Request"}',
        b'{"type":"Answer"}',
        b'{"type":"ProtocolError"}',
        b'{"type":"' + b"x" * 100_000 + b'"}',
        b"\xff\xfe",
        b'{"type":"Ping"}{"type":"Ping"}',
        b'{"type":"Clock","monotonic_ns":' + b"9" * 5000 + b"}",
        b'{"type":"Clock","monotonic_ns":NaN}',
        b'{"type":"Examine","description":{"a":Infinity}}',
        b'{"type":"Examine","description":{"a":' + b"9" * 30 + b"}}",
        b'{"type":"Examine","description":{"a":' + b"[" * 40 + b"]" * 40 + b"}}",
        b'{"type":"Examine","description":{"a":[' + b"1," * 70_000 + b"1]}}",
        b"[" * 100_000,
        b'{"type":"Resumed","stamps":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"type":"Resumed","stamps":[' + b'["held",1],' * 300 + b'["held",1]]}',
    ],
    ids=lambda header: repr(header[:24]),
)
def test_what_is_no_message_is_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(header, b"", Message)
    assert len(str(caught.value)) < 200


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_a_protocol_error(header: bytes) -> None:
    check(header, b"")


@given(JSON)
def test_any_json_is_a_message_or_a_protocol_error(value: Any) -> None:
    check(json.dumps(value).encode(), b"")


@SLOW
@given(messages(), st.dictionaries(st.text(max_size=12), JSON, max_size=2), st.data())
def test_any_change_of_a_message_is_a_message_or_a_protocol_error(
    message: tuple[type[Message], dict[str, Any]], added: dict[str, Any], data: st.DataObject
) -> None:
    kind, fields = message
    payload = data.draw(st.just(payload_of(kind, fields)) | st.binary(max_size=9))
    fields |= added if data.draw(st.booleans()) else {}
    for name in fields_of(kind):
        change = data.draw(st.sampled_from(["keep", "drop", "replace", "swap"]))
        if change == "drop":
            fields.pop(name, None)
        elif change == "replace":
            fields[name] = data.draw(JSON)
        elif change == "swap":
            fields[name] = data.draw(st.sampled_from(list(fields.values())))
    check(wire(kind, fields), payload)


def check(header: bytes, payload: bytes) -> None:
    """Check that bytes are refused, or that their message reads the same when it is sent on."""
    try:
        message = decode(header, payload, Message)
    except ProtocolError:
        return
    assert decode(encode(message), payload, Message) == message
