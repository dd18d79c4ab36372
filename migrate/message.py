"""What a message between coordinator and agent is, and how it becomes a frame. No I/O here.

A message is one frame: a JSON object {"type": ..., fields...} as its header and, of the messages that declare a
`payload`, bytes. A message is declared by a class (migrate/protocol.py) whose fields are types that
checkpoint/schema.py knows, with their bounds:

    class Prepare(Request[Prepared])    the coordinator asks, and is answered by a Prepared, or by Failed
    class Images(Streamed)              the coordinator tells, and is not answered
    class Prepared(Answer)              the agent answers
    class Pages(Message)                neither: it has channels of its own

`decode` refuses everything else than what is declared, by ProtocolError and by nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, dataclass_transform, get_args

from checkpoint import schema
from checkpoint.errors import DataInvalid

#: A payload as it is sent, and as it arrives.
Payload = bytes | bytearray | memoryview
M = TypeVar("M", bound="Message")
A = TypeVar("A", bound="Answer")
PAYLOAD = "payload"
#: By the name that stands in the header.
_CONCRETE: dict[str, type[Message]] = {}


class ProtocolError(Exception):
    """The peer sent something that is not a message of this protocol, or not one that may come now."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Message:
    """Base. A subclass is a frozen keyword-only dataclass; `abstract` ones are no messages themselves.

    A subclass may have a method `check`, which raises DataInvalid where its fields do not fit each other.
    """

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        super().__init_subclass__()
        dataclass(frozen=True, kw_only=True)(cls)
        if not abstract:
            _CONCRETE[cls.__name__] = cls


class Answer(Message, abstract=True):
    """What the agent says."""

    @property
    def is_last(self) -> bool:
        """Whether nothing more belongs to this answer. A long one comes in several."""
        return True


class Command(Message, abstract=True):
    """What the coordinator says."""


class Request(Command, Generic[A], abstract=True):
    """A command that is answered. `answer` is the class of the answer, unless that is Failed."""

    answer: ClassVar[type[Answer]]

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        super().__init_subclass__(abstract=abstract)
        [base] = [base for base in getattr(cls, "__orig_bases__", ()) if get_args(base)]
        [cls.answer] = get_args(base)


class Streamed(Command, abstract=True):
    """A command that is not answered: what goes wrong is told in the answer to the next request."""


def concrete(base: type[M]) -> list[type[M]]:
    """Every message of a sort."""
    return [kind for kind in _CONCRETE.values() if issubclass(kind, base)]


def make_ready() -> None:
    """Make what reads each message now, so that the first one of a kind is read as fast as the next."""
    for kind in _CONCRETE.values():
        schema.make_ready(kind, _given(kind))


def encode(message: Message) -> bytes:
    """The header of a message's frame."""
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
    """The payload of a message's frame; nothing of one that declares none."""
    found: Payload = getattr(message, PAYLOAD, b"")
    return found


def decode(header: bytes | bytearray, payload: Payload, allowed: type[M]) -> M:
    """The message of a frame. Raises ProtocolError unless it is well formed and one of `allowed`."""
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
        raise ProtocolError(f"{name}{error}") from error
    return message


def _given(kind: type[Message]) -> frozenset[str]:
    """The fields of a message that are not in its header."""
    return frozenset({PAYLOAD} & schema.fields_of(kind).keys())


def _no_number(text: str) -> None:
    """JSON has no NaN and no infinity, though json.loads reads them."""
    raise ValueError(text)


def check_sum(size: int, payload: Payload) -> None:
    """Raise DataInvalid unless the parts of a payload, of so many bytes together, are all of it."""
    if size != len(payload):
        raise DataInvalid(f": its parts are {size} bytes, its payload is {len(payload)}")
