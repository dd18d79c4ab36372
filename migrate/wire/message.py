"""Messages between coordinator and agent: their base classes and their form as frames. No I/O here.

A message is one frame. The header is a JSON object {"type": ..., fields...}; messages that declare
a `payload` have bytes besides. A class in protocol.py declares a message. Its fields have types
that checkpoint/schema.py knows, with their bounds; its base says who sends it:

    class Prepare(Request[Prepared])    the coordinator; the agent answers by Prepared, or by Failed
    class PageMap(Streamed)             the coordinator, and there is no answer
    class Prepared(Answer)              the agent
    class Pages(Message)                the source, on channels of its own

`decode` refuses everything that is not declared so, by ProtocolError and by no other error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, dataclass_transform, get_args

from checkpoint import schema
from checkpoint.errors import DataInvalid

#: The types of a payload, as it is sent and as it arrives.
Payload = bytes | bytearray | memoryview
M = TypeVar("M", bound="Message")
A = TypeVar("A", bound="Answer")
PAYLOAD = "payload"
#: The classes of all messages by name, which is the `type` in the header.
_CONCRETE: dict[str, type[Message]] = {}


class ProtocolError(Exception):
    """The peer sent data that is no message of this protocol, or one that may not come now."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Message:
    """The base class of messages; each subclass becomes a frozen keyword-only dataclass.

    An `abstract` subclass is itself no message. A subclass may have a method `check`, which raises
    DataInvalid if its fields do not fit each other.
    """

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        super().__init_subclass__()
        dataclass(frozen=True, kw_only=True)(cls)
        if not abstract:
            _CONCRETE[cls.__name__] = cls


class Answer(Message, abstract=True):
    """A message from the agent to the coordinator."""

    @property
    def is_last(self) -> bool:
        """True if this message ends the answer; a long answer comes in several messages."""
        return True


class Command(Message, abstract=True):
    """A message from the coordinator to the agent."""


class Request(Command, Generic[A], abstract=True):
    """A command that the agent answers, by a message of class `answer` or by Failed."""

    answer: ClassVar[type[Answer]]

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        super().__init_subclass__(abstract=abstract)
        [base] = [base for base in getattr(cls, "__orig_bases__", ()) if get_args(base)]
        [cls.answer] = get_args(base)


class Streamed(Command, abstract=True):
    """A command without an answer: its failure is reported in the answer to the next request."""


def concrete(base: type[M]) -> list[type[M]]:
    """Return the classes of all messages that derive from `base`."""
    return [kind for kind in _CONCRETE.values() if issubclass(kind, base)]


def make_ready() -> None:
    """Make the reader of every message now, so that the first of a kind is not read more slowly."""
    for kind in _CONCRETE.values():
        schema.make_ready(kind, _given(kind))


def encode(message: Message) -> bytes:
    """Return the header of a message's frame."""
    fields: Any = schema.plain(message)
    fields.pop(PAYLOAD, None)
    text = json.dumps(
        {"type": type(message).__name__, **fields},
        separators=(",", ":"),
        default=schema.plain,
        allow_nan=False,
    )
    return text.encode()


def payload_of(message: Message) -> Payload:
    """Return the payload of a message's frame; b"" if the message declares none."""
    found: Payload = getattr(message, PAYLOAD, b"")
    return found


def decode(header: bytes | bytearray, payload: Payload, allowed: type[M]) -> M:
    """Return the message in a frame.

    Raises ProtocolError unless the message is well formed and its class derives from `allowed`.
    """
    try:
        fields: dict[str, Any] = json.loads(header, parse_constant=_no_number)
        name = fields.pop("type")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ProtocolError("a frame without a message") from error
    kind = _CONCRETE.get(name) if isinstance(name, str) else None
    if kind is None or not issubclass(kind, allowed):
        raise ProtocolError(f"message {schema.shown(name)} is not allowed here")
    given = _given(kind)
    if PAYLOAD in fields or (payload and not given):
        raise ProtocolError(f"{name} came with a payload")
    try:
        message: M = schema.read_fields(kind, fields, dict.fromkeys(given, payload))
    except DataInvalid as error:
        raise ProtocolError(f"{name}{error}" if error.place else f"{name}: {error}") from error
    return message


def _given(kind: type[Message]) -> frozenset[str]:
    """Return the names of a message's fields that are not in its header."""
    return frozenset({PAYLOAD} & schema.fields_of(kind).keys())


def _no_number(text: str) -> None:
    """Raise ValueError, because JSON has no NaN and no infinity, though json.loads reads them."""
    raise ValueError(text)


def check_sum(size: int, payload: Payload) -> None:
    """Raise DataInvalid unless a payload is as long as its parts, `size` bytes together."""
    if size != len(payload):
        raise DataInvalid(f": its parts are {size} bytes, its payload is {len(payload)}")
