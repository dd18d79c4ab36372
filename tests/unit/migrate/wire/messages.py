"""Messages of every kind, as hypothesis strategies and as the bytes of the wire."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from checkpoint import schema
from migrate.wire.message import PAYLOAD, concrete
from migrate.wire.protocol import (
    Message,
)
from tests.wire import values

EVERY = concrete(Message)


def fields_of(kind: type[Message]) -> dict[str, Any]:
    """Return the declared types of a message's fields, but for the payload."""
    return {name: declared for name, declared in schema.fields_of(kind).items() if name != PAYLOAD}


def wire(kind: type[Message], fields: dict[str, Any]) -> bytes:
    """Return the header of a message with these fields."""
    return json.dumps({"type": kind.__name__, **fields}).encode()


def small_pieces(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a message, with parts whose payload is small enough to make."""
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
    """Draw a message that is as declared: (class, its fields as JSON)."""
    kind = kind or draw(st.sampled_from(EVERY))
    return kind, small_pieces(draw(values(kind)))
