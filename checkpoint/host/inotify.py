"""Names of files in a directory as their writers close them (inotify(7))."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

IN_CLOSE_WRITE = 0x8
#: struct inotify_event, before the name
HEADER = struct.Struct("=iIII")
BUFFER = 1 << 16

libc = ctypes.CDLL(None, use_errno=True)


class ClosedFiles:
    """`descriptor` can be read when there are `names`. Raises OSError."""

    def __init__(self, directory: Path) -> None:
        self.descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        if libc.inotify_add_watch(self.descriptor, os.fsencode(directory), IN_CLOSE_WRITE) < 0:
            error = ctypes.get_errno()
            self.close()
            raise OSError(error, os.strerror(error), str(directory))

    def names(self) -> Iterator[str]:
        """Of files closed since the last call. Some may be missing: the kernel's queue has an end. Raises OSError."""
        try:
            data = os.read(self.descriptor, BUFFER)  # short result: the kernel gives whole events (inotify(7))
        except BlockingIOError:
            return
        yield from names_of(data)

    def close(self) -> None:
        os.close(self.descriptor)


def names_of(data: bytes) -> Iterator[str]:
    """The names in what was read of an inotify descriptor. Raises OSError for anything but whole events."""
    at = 0
    while at < len(data):
        behind = at + HEADER.size
        size = HEADER.unpack_from(data, at)[3] if behind <= len(data) else 0
        if behind + size > len(data):
            raise OSError(errno.EBADMSG, "an inotify event was cut off")
        if name := data[behind : behind + size].rstrip(b"\0"):  # an overflow of the queue has none
            yield os.fsdecode(name)
        at = behind + size
