"""The one door for bytes that must all be read or written: a short result is finished here, or is an error.

read(2), write(2) and their kin may do less than they were asked: Linux moves at most 0x7ffff000 bytes in
one call, a signal or a full pipe ends one early, and a file may end before the bytes do. Code that does
not look at the result takes what is missing for zeros. Every function here returns only when all bytes
are there. Messages on SEQPACKET, datagram and netlink sockets are whole by nature and stay with their
sockets; the lone programs, which can import nothing, carry loops of their own.
"""

from __future__ import annotations

import os

from checkpoint.errors import IncompleteIO

Writable = bytes | bytearray | memoryview


def read(fd: int, view: memoryview) -> None:
    """Fill `view` from a stream. Raises IncompleteIO where the stream ends first, and OSError."""
    while view:
        got = os.readv(fd, [view])
        if not got:
            raise IncompleteIO(f"a stream ended {len(view)} bytes early")
        view = view[got:]


def pread(fd: int, view: memoryview, offset: int) -> None:
    """Fill `view` from a file, beginning at `offset`. Raises IncompleteIO where the file ends, and OSError."""
    while view:
        got = os.preadv(fd, [view], offset)
        if not got:
            raise IncompleteIO(f"a file ended {len(view)} bytes early, at offset {offset}")
        view, offset = view[got:], offset + got


def write(fd: int, data: Writable) -> None:
    """Write all of `data`. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def pwrite(fd: int, data: Writable, offset: int) -> None:
    """Write all of `data` into a file, beginning at `offset`. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
