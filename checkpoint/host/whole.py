"""Reads and writes of all the bytes that were asked for: a short result is continued, or an error.

A file is replaced as a whole, too.

read(2), write(2) and similar calls may move fewer bytes than they were asked for: Linux moves at
most 0x7ffff000 bytes in one call, a signal or a full pipe ends a call early, and a file may end
too soon. Code that ignores the result takes the missing bytes for zeros. Every function of this
module returns only when all bytes are moved.

Two kinds of code do without this module. Messages on SEQPACKET, datagram and netlink sockets are
always whole, so the modules with these sockets call them directly. The programs that run as a
single file of their own (such as memory/tracking/inject.py) can import nothing, and have their own
loops.
"""

from __future__ import annotations

import os
from pathlib import Path

from checkpoint.errors import IncompleteIO

NEW = ".new"
Writable = bytes | bytearray | memoryview


def read(fd: int, view: memoryview) -> None:
    """Fill `view` from a stream. Raises IncompleteIO when the stream ends first, and OSError."""
    while view:
        got = os.readv(fd, [view])
        if not got:
            raise IncompleteIO(f"a stream ended {len(view)} bytes early")
        view = view[got:]


def pread(fd: int, view: memoryview, offset: int) -> None:
    """Fill `view` from a file, beginning at `offset` in bytes.

    Raises IncompleteIO when the file ends first, and OSError.
    """
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
    """Write all of `data` into a file, beginning at `offset` in bytes. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def replace(path: Path, content: bytes, mode: int) -> None:
    """Write or replace a file, whole or not at all, whenever the power fails. Raises OSError.

    Several processes may do so at once; in one of them, a thread at a time. A process that is
    killed in this leaves a file beside the other, whose name begins with a dot and ends with NEW.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}{NEW}")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(fd, mode)
        os.fsync(fd)  # before the rename: a file system may write names before contents
    new.rename(path)
