"""migrate/wire/protocol.py: every message survives the wire; nothing that is not one does."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoint import schema
from migrate.agent.plug_command import ServeRsync
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
from migrate.wire.values import in_pieces
from tests.wire import JSON, payload_of, values
from transport.framing import MAX_HEADER

EVERY = concrete(Message)
SLOW = settings(suppress_health_check=list(HealthCheck), deadline=None)
QUICK = settings(SLOW, max_examples=20)
PATHS = [
    ("x",) * 200_000,
    ("\U0001f600" * 2000,) * 100,
    ("\1" * 4000,) * 100,
    (),
    ("a/" * 2000 + "a",) * 500,
]


def fields_of(kind: type[Message]) -> dict[str, Any]:
    return {name: declared for name, declared in schema.fields_of(kind).items() if name != PAYLOAD}


def required(kind: type[Message], name: str) -> bool:
    [field] = [field for field in dataclasses.fields(kind) if field.name == name]  # type: ignore[arg-type]
    return field.default is dataclasses.MISSING


def wire(kind: type[Message], fields: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind.__name__, **fields}).encode()


def small_pieces(fields: dict[str, Any]) -> dict[str, Any]:
    """With parts whose payload can be made here."""
    return {
        name: [[first, size % 100] for first, size in value]
        if name in ("pieces", "frames")
        else value
        for name, value in fields.items()
    }


@st.composite
def messages(
    draw: st.DrawFn, kind: type[Message] | None = None
) -> tuple[type[Message], dict[str, Any]]:
    """One that is as declared: (class, its fields as JSON)."""
    kind = kind or draw(st.sampled_from(EVERY))
    return kind, small_pieces(draw(values(kind)))


EVERY_FIELD = [(kind, name) for kind in EVERY for name in fields_of(kind)]
NAMES = [f"{kind.__name__}-{name}" for kind, name in EVERY_FIELD]


@pytest.mark.parametrize("kind", EVERY)
@QUICK
@given(st.data())
def test_every_message_survives(kind: type[Message], data: st.DataObject) -> None:
    _, fields = data.draw(messages(kind))
    payload = payload_of(kind, fields)
    message = decode(wire(kind, fields), payload, kind)
    assert decode(encode(message), payload, Message) == message
    assert getattr(message, PAYLOAD, b"") == payload
    for name, value in fields.items():
        assert json.loads(encode(message))[name] == value


def test_each_is_of_one_direction() -> None:
    sorts: list[list[type[Any]]] = [
        concrete(Request),
        concrete(Streamed),
        concrete(Answer),
        [Pages, ServeRsync],
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
    for wrong in (Command, Answer, Pages, Request, ServeRsync, Streamed):
        if not issubclass(kind, wrong):
            with pytest.raises(ProtocolError, match=kind.__name__):
                decode(wire(kind, fields), payload_of(kind, fields), wrong)


@pytest.mark.parametrize(("kind", "name"), EVERY_FIELD, ids=NAMES)
@QUICK
@given(st.data())
def test_a_field_of_another_type_is_refused(
    kind: type[Message], name: str, data: st.DataObject
) -> None:
    """On this wire true and false are no numbers, nor is 1.0 one; and none is negative but a file's time."""
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
def test_values_that_are_not_what_they_should_be(
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


@pytest.mark.parametrize("paths", PATHS)
def test_long_lists_go_in_pieces_that_fit_a_frame(paths: tuple[str, ...]) -> None:
    pieces = list(in_pieces(paths))
    assert tuple(path for piece in pieces for path in piece) == paths
    for piece in pieces:
        message = protocol.Remove(tree="/", paths=piece)
        assert len(encode(message)) < MAX_HEADER
        assert decode(encode(message), b"", Command) == message


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
    try:
        message = decode(header, payload, Message)
    except ProtocolError:
        return
    # What was taken is what it says: it can be sent on and reads the same.
    assert decode(encode(message), payload, Message) == message
