"""Tests of migrate/wire/protocol.py: a message is taken if it is as declared, and only then."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoint import schema
from migrate.agent.plug_command import ServeRsync, TakeUp
from migrate.wire import protocol
from migrate.wire.message import PAYLOAD, concrete
from migrate.wire.protocol import (
    Answer,
    Command,
    Message,
    Pages,
    ProtocolError,
    Request,
    Streamed,
    decode,
    encode,
)
from tests.unit.migrate.wire.messages import fields_of, messages, wire
from tests.wire import payload_of

EVERY = concrete(Message)
SLOW = settings(suppress_health_check=list(HealthCheck), deadline=None)
QUICK = settings(SLOW, max_examples=20)


def required(kind: type[Message], name: str) -> bool:
    """Return whether a field of a message has no default."""
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    [field] = [field for field in fields if field.name == name]
    return field.default is dataclasses.MISSING


EVERY_FIELD = [(kind, name) for kind in EVERY for name in fields_of(kind)]
NAMES = [f"{kind.__name__}-{name}" for kind, name in EVERY_FIELD]


@pytest.mark.parametrize("kind", EVERY)
@QUICK
@given(st.data())
def test_every_message_survives_the_wire(kind: type[Message], data: st.DataObject) -> None:
    _, fields = data.draw(messages(kind))
    payload = payload_of(kind, fields)
    message = decode(wire(kind, fields), payload, kind)
    assert decode(encode(message), payload, Message) == message
    assert getattr(message, PAYLOAD, b"") == payload
    for name, value in fields.items():
        assert json.loads(encode(message))[name] == value


def test_each_message_is_of_one_direction() -> None:
    sorts: list[list[type[Any]]] = [
        concrete(Request),
        concrete(Streamed),
        concrete(Answer),
        [Pages, ServeRsync, TakeUp],
    ]
    assert sorted(kind.__name__ for sort in sorts for kind in sort) == sorted(
        kind.__name__ for kind in EVERY
    )
    assert len(EVERY) > 30
    told = {protocol.Failed, protocol.Log, protocol.Trace}
    assert {kind.answer for kind in concrete(Request)} | told == set(concrete(Answer))


@pytest.mark.parametrize("kind", EVERY)
@settings(QUICK, max_examples=3)
@given(st.data())
def test_the_wrong_direction_is_refused(kind: type[Message], data: st.DataObject) -> None:
    _, fields = data.draw(messages(kind))
    for wrong in (Command, Answer, Pages, Request, ServeRsync, Streamed, TakeUp):
        if not issubclass(kind, wrong):
            with pytest.raises(ProtocolError, match=kind.__name__):
                decode(wire(kind, fields), payload_of(kind, fields), wrong)


@pytest.mark.parametrize(("kind", "name"), EVERY_FIELD, ids=NAMES)
@QUICK
@given(st.data())
def test_a_field_of_another_type_is_refused(
    kind: type[Message], name: str, data: st.DataObject
) -> None:
    """On this wire true, false and 1.0 are no numbers, and only a file's time may be negative."""
    _, fields = data.draw(messages(kind))
    free = fields_of(kind)[name] is schema.JsonObject
    for wrong in ("te\nxt", -7, 1 << 64, True, 1.5, [["a", "b"], 1], {"three": 3}, None):
        try:
            decode(wire(kind, {**fields, name: wrong}), payload_of(kind, fields), Message)
        except ProtocolError as error:
            assert str(error).startswith(f"{kind.__name__}.{name}")
        else:
            declared = schema.read(fields_of(kind)[name], wrong)
            assert json.loads(json.dumps(declared, default=schema.plain)) in (
                wrong,
                schema.harmless(str(wrong)),
            )
            assert free or not isinstance(wrong, list | dict | float)


@pytest.mark.parametrize(("kind", "name"), EVERY_FIELD, ids=NAMES)
@settings(QUICK, max_examples=3)
@given(st.data())
def test_a_missing_field_is_refused_or_has_its_default(
    kind: type[Message], name: str, data: st.DataObject
) -> None:
    _, fields = data.draw(messages(kind))
    payload = payload_of(kind, fields)
    del fields[name]
    if required(kind, name):
        with pytest.raises(ProtocolError, match=name):
            decode(wire(kind, fields), payload, Message)
    else:
        assert getattr(decode(wire(kind, fields), payload, Message), name) == ()


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("name", ["unknown", "payload", "type_", "__class__", "", "x" * 1000])
@settings(QUICK, max_examples=2)
@given(st.data())
def test_an_unknown_field_is_refused(kind: type[Message], name: str, data: st.DataObject) -> None:
    _, fields = data.draw(messages(kind))
    with pytest.raises(ProtocolError) as caught:
        decode(wire(kind, {**fields, name: "x"}), payload_of(kind, fields), Message)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("kind", EVERY)
@settings(QUICK, max_examples=3)
@given(st.data())
def test_a_payload_that_does_not_belong_there_is_refused(
    kind: type[Message], data: st.DataObject
) -> None:
    _, fields = data.draw(messages(kind))
    payload = payload_of(kind, fields)
    if PAYLOAD not in schema.fields_of(kind) or kind in (
        protocol.CriuImages,
        protocol.Go,
        protocol.LogsFound,
    ):
        with pytest.raises(ProtocolError):
            decode(wire(kind, fields), payload + b"x", Message)


FILE = ["a", 0o100644, 1, 1]
HELLO = {
    "version": 3,
    "migration_id": "0123456789ab",
    "engine": "runc",
    "container_name": "web",
    "traces": False,
}


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (protocol.Hello, {**HELLO, "migration_id": "../../etc/x"}, "migration_id"),
        (protocol.Hello, {**HELLO, "container_name": "../web"}, "container_name"),
        (protocol.Hello, {**HELLO, "container_name": "--all"}, "container_name"),
        (protocol.Hello, {**HELLO, "container_name": "web\n"}, "container_name"),
        (protocol.AwaitContainerImage, {"key": ""}, "key"),
        (protocol.AwaitContainerImage, {"key": "a" * 63 + "/"}, "key"),
        (protocol.Armed, {"trees": ["/", "/var/../etc"]}, r"trees\[1\]"),
        (ServeRsync, {"tree": "/../etc", "words": []}, "tree"),
        (ServeRsync, {"tree": None, "words": ["x" * 257]}, r"words\[0\]"),
        (TakeUp, {"position": -1}, "position"),
        (protocol.Examined, {"objections": [], "layers": ["sha256:/etc/shadow"]}, r"layers\[0\]"),
        (protocol.TmpfsMade, {"paths": ["/cache", "/dev/fd/../root/root"]}, r"paths\[1\]"),
        (
            protocol.TreeListed,
            {"files": [FILE, ["b/../../c", 0, 0, 0]], "more": False},
            r"files\[1\]\.path",
        ),
        (protocol.TreeListed, {"files": [["/etc", 0, 0, 0]], "more": False}, r"files\[0\]\.path"),
        (
            protocol.TreeListed,
            {"files": [["a", 1 << 16, 0, 0]], "more": False},
            r"files\[0\]\.mode",
        ),
        (protocol.Remove, {"tree": "/", "paths": ["."]}, r"paths\[0\]"),
        (
            protocol.Arm,
            {"macs": ["0} drop; }"], "nftables": True, "one_cgroup": True},
            r"macs\[0\]",
        ),
        (protocol.CriuImages, {"pieces": [["core-1.img", -1]]}, r"pieces\[0\]\.bytes"),
        (protocol.CriuImages, {"pieces": [["../core-1.img", 0]]}, r"pieces\[0\]\.name"),
        (protocol.CriuImages, {"pieces": [["core-1.img", 7]]}, "its parts are 7 bytes"),
        (protocol.Go, {"frames": [[0, 60], [1, 60]]}, "its parts are 120 bytes"),
        (
            protocol.PageMap,
            {"dst_id": 0x101, "extents": [[4096, -1, True]]},
            r"extents\[0\]\.pages",
        ),
        (protocol.PageMap, {"dst_id": 0x105, "extents": []}, "dst_id"),
        (protocol.Finished, {"stamps": [], "filled_bytes": 0, "waits": [0, 0]}, "waits"),
        (protocol.Resumed, {"go_ns": 1, "stamps": []}, "resumed_ns"),
    ],
)
def test_a_value_out_of_its_bounds_is_refused(
    kind: type[Message], fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ProtocolError, match=said) as caught:
        decode(wire(kind, fields), b"", Message)
    assert str(caught.value).startswith(kind.__name__)


def test_text_for_people_arrives_harmless() -> None:
    header = wire(protocol.Log, {"text": "\x1b]0;evil\x07\u202e\r\n" + "x" * 10_000})
    text = decode(header, b"", protocol.Log).text
    assert text.startswith(r"\x1b]0;evil\x07\u202e\r\n")
    assert len(text) == 4096
    assert text.isprintable()
