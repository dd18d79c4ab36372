"""Take an image of CRIU apart: two u32 magics, then messages, each preceded by its u32 length (criu/protobuf.c)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from checkpoint.errors import ImageError

#: criu/include/magic.h
MAGICS_BYTES = 8
LENGTH = struct.Struct("=I")


def messages(name: str, data: bytes) -> Iterator[bytes]:
    """Yield the messages of an image. Raises ImageError where it ends within one; `name` is the image's, for that."""
    at = MAGICS_BYTES
    while at < len(data):
        start = at + LENGTH.size
        size = LENGTH.unpack_from(data, at)[0] if start <= len(data) else 0
        at = start + size
        if at > len(data):
            raise ImageError(f"{name} is damaged: it ends within a message")
        yield data[start:at]
