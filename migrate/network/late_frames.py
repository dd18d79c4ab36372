"""Frames that came for a frozen container, as one piece of bytes between processes of one host.

Each frame is {index of the interface: u32, length: u32} in network order, and then its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from migrate.wire.values import LateFrame

#: The index of the container's interface, and a frame (checkpoint/network/frames.py).
Frame = tuple[int, bytes | memoryview]
PREFIX = struct.Struct("!II")


def pack(frames: Iterable[Frame]) -> bytes:
    """Return frames as one piece of bytes."""
    return b"".join(PREFIX.pack(index, len(frame)) + frame for index, frame in frames)


def unpack(data: bytes) -> Iterator[Frame]:
    """Yield the frames in what `pack` has returned. A piece that is cut off ends them."""
    left = memoryview(data)
    while len(left) >= PREFIX.size:
        index, size = PREFIX.unpack_from(left)
        if len(left) < PREFIX.size + size:
            return
        yield index, left[PREFIX.size : PREFIX.size + size]
        left = left[PREFIX.size + size :]


def split(frames: Sequence[LateFrame], payload: bytes | bytearray | memoryview) -> Iterator[Frame]:
    """Yield the frames of a message, whose payload is their bytes joined."""
    left = memoryview(payload)
    for index, size in frames:
        yield index, left[:size]
        left = left[size:]
