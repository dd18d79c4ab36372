"""A parser for the framing of CRIU's image files (criu/protobuf.c).

A file begins with two u32 magics. Messages follow, each preceded by its u32 length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

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
