"""What a message between coordinator and agent is, and how it becomes a frame. No I/O here.

A message is one frame: a JSON object {"type": ..., fields...} as its header, and for the few messages that carry bytes,
a payload. Anything else than what migrate/protocol.py declares is refused.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, ClassVar, get_type_hints

_REGISTRY: dict[str, type[Message]] = {}
_HINTS: dict[type[Message], dict[str, Any]] = {}


class ProtocolError(Exception):
    """The peer sent something that is not a message of this protocol."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """Base: subclasses declare fields of the JSON types str, int, bool, float, list, dict, or None."""

    type: ClassVar[str]
    payload: bytes | bytearray | memoryview = dataclasses.field(default=b"", repr=False)

    def __init_subclass__(cls) -> None:
        cls.type = cls.__name__
        _REGISTRY[cls.type] = cls


def encode(message: Message) -> bytes:
    """The header of a message's frame. Its payload is `message.payload`."""
    fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(message) if f.name != "payload"}
    return json.dumps({"type": message.type, **fields}, separators=(",", ":")).encode()


def decode(header: bytes | bytearray, payload: bytes | bytearray, allowed: tuple[type[Message], ...]) -> Message:
    """The message of a frame. Raises ProtocolError unless it is well formed and one of `allowed`."""
    try:
        fields: dict[str, Any] = json.loads(header)
        name = fields.pop("type")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ProtocolError("a frame without a message") from error
    kind = _REGISTRY.get(name) if isinstance(name, str) else None
    if kind is None or kind not in allowed:
        raise ProtocolError(f"message {str(name)[:40]!r} is not allowed here")
    _check_fields(kind, fields)
    return kind(payload=payload, **fields)


def _hints(kind: type[Message]) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = get_type_hints(kind)
    return _HINTS[kind]


def _check_fields(kind: type[Message], fields: dict[str, Any]) -> None:
    hints = _hints(kind)
    known = {f.name: f for f in dataclasses.fields(kind) if f.name != "payload"}
    for name, value in fields.items():
        # bool is an int to isinstance; on this wire it is not.
        if name not in known or not isinstance(value, hints[name]) or (hints[name] is int and isinstance(value, bool)):
            raise ProtocolError(f"{kind.type}: field {name[:40]!r} is not as declared")
    required = {n for n, f in known.items() if f.default_factory is dataclasses.MISSING}
    if missing := required - fields.keys():
        raise ProtocolError(f"{kind.type}: field {min(missing)!r} is missing")
