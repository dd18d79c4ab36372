"""What is done to the files of directories (inotify(7))."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

IN_CLOSE_WRITE, IN_OPEN, IN_ONLYDIR = 0x8, 0x20, 0x0100_0000
#: struct inotify_event, before the name
HEADER = struct.Struct("=iIII")
BUFFER = 1 << 16

libc = ctypes.CDLL(None, use_errno=True)


class Event(NamedTuple):
    """Which watch, -1 where the queue was full; which kinds (IN_*); the file's name, empty of the directory itself."""

    watch: int
    mask: int
    name: str


class Watches:
    """Directories that are watched. `descriptor` can be read when there are `events`."""

    def __init__(self) -> None:
        """Raises OSError."""
        self.descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")

    def add(self, directory: Path | str, mask: int) -> int:
        """Watch one for events of these kinds. Returns the number by which they name it. Raises OSError."""
        number = int(
            libc.inotify_add_watch(self.descriptor, os.fsencode(directory), mask | IN_ONLYDIR)
        )
        if number < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(directory))
        return number

    def events(self) -> Iterator[Event]:
        """Yield what came since the last call. The kernel's queue has an end: then one has no watch. Raises OSError."""
        while True:
            try:
                # The kernel gives whole events (inotify(7)).
                data = os.read(self.descriptor, BUFFER)  # short result: of whole events
            except BlockingIOError:
                return
            yield from events_in(data)

    def close(self) -> None:
        os.close(self.descriptor)


class ClosedFiles:
    """Names of files in a directory as their writers close them. `descriptor` can be read when there are `names`."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError."""
        self._watches = Watches()
        self.descriptor = self._watches.descriptor
        try:
            self._watches.add(directory, IN_CLOSE_WRITE)
        except OSError:
            self.close()
            raise

    def names(self) -> Iterator[str]:
        """Of files closed since the last call. Some may be missing: the kernel's queue has an end. Raises OSError."""
        return (event.name for event in self._watches.events() if event.name)

    def close(self) -> None:
        self._watches.close()


def events_in(data: bytes) -> Iterator[Event]:
    """The events in what was read of an inotify descriptor. Raises OSError for anything but whole ones."""
    at = 0
    while at < len(data):
        behind = at + HEADER.size
        watch, mask, _, size = HEADER.unpack_from(data, at) if behind <= len(data) else (0, 0, 0, 0)
        if behind + size > len(data):
            raise OSError(errno.EBADMSG, "an inotify event was cut off")
        yield Event(watch, mask, os.fsdecode(data[behind : behind + size].rstrip(b"\0")))
        at = behind + size
