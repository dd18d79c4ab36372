"""Names of files in a directory as their writers close them (inotify(7))."""

from __future__ import annotations

import ctypes
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
        """Of files closed since the last call."""
        try:
            data = os.read(self.descriptor, BUFFER)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            size = HEADER.unpack_from(data, at)[3]
            at += HEADER.size
            yield os.fsdecode(data[at : at + size].rstrip(b"\0"))
            at += size

    def close(self) -> None:
        os.close(self.descriptor)
