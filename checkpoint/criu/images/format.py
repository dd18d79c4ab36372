"""A parser for the framing of CRIU's image files (criu/protobuf.c).

A file begins with two u32 magics. Messages follow, each preceded by its u32 length.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from checkpoint.criu.rpc import DECODE_ERRORS, Message
from checkpoint.errors import ImageError

#: The size of the two magics (criu/include/magic.h).
MAGICS_BYTES = 8
LENGTH = struct.Struct("=I")


def messages(name: str, data: bytes) -> Iterator[bytes]:
    """Yield the messages of an image file whose content is `data`, without their lengths.

    Raises ImageError, which says `name`, when the file ends within a message. The messages before
    have been yielded then.
    """
    at = MAGICS_BYTES
    while at < len(data):
        start = at + LENGTH.size
        size = LENGTH.unpack_from(data, at)[0] if start <= len(data) else 0
        at = start + size
        if at > len(data):
            raise ImageError(f"{name} is damaged: it ends within a message")
        yield data[start:at]


def rewritten(name: str, data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return an image file whose content is `data`, with each message as `change` returns it.

    Raises ImageError as `messages` does, and what `change` raises.
    """
    out = [data[:MAGICS_BYTES]]
    for message in map(change, messages(name, data)):
        out += [LENGTH.pack(len(message)), message]
    return b"".join(out)


def parsed(name: str, kind: Any, message: bytes) -> Message:
    """Return a message of the image file `name` as one of the class `kind`. Raises ImageError."""
    try:
        return kind.FromString(message)
    except DECODE_ERRORS as error:
        raise ImageError(f"{name} is damaged") from error


def writable(name: str, kind: Any, message: bytes) -> Message:
    """Return the same, to be changed and written again. Raises ImageError if it lacks a field."""
    found = parsed(name, kind, message)
    if not found.IsInitialized():
        raise ImageError(
            f"{name} is damaged: it lacks {', '.join(found.FindInitializationErrors())}"
        )
    return found
