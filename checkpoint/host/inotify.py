"""Watches on directories, which report what is done to the files in them (inotify(7))."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from checkpoint.host import kernel

IN_CLOSE_WRITE, IN_OPEN, IN_ONLYDIR = 0x8, 0x20, 0x0100_0000
#: struct inotify_event without the name at its end: wd, mask, cookie, len.
HEADER = struct.Struct("=iIII")
BUFFER = 1 << 16


class Event(NamedTuple):
    """One event of a watched directory.

    `watch` is the number that `Watches.add` returned, or -1 if the kernel's queue was full and
    events were lost. `mask` has the kinds of the event (IN_*). `name` is that of the file in the
    directory, or "" for the directory itself.
    """

    watch: int
    mask: int
    name: str


class Watches:
    """A set of watched directories. `descriptor` is readable when there are `events`."""

    def __init__(self) -> None:
        """Make an inotify instance. Raises OSError, as when root has as many as it may have."""
        self.descriptor = kernel.inotify_init(os.O_CLOEXEC | os.O_NONBLOCK)

    def add(self, directory: Path | str, mask: int) -> int:
        """Watch a directory for events of the kinds in `mask` (IN_*).

        Returns the number of the watch, which its events carry. Raises OSError.
        """
        return kernel.inotify_add_watch(self.descriptor, str(directory), mask | IN_ONLYDIR)

    def events(self) -> Iterator[Event]:
        """Yield the events since the last call. Raises OSError.

        The kernel's queue is bounded. If it was full, some events are missing, and an event whose
        `watch` is -1 says so.
        """
        while True:
            try:
                # read(2) returns whole events only (inotify(7)).
                data = os.read(self.descriptor, BUFFER)  # short result: always of whole events
            except BlockingIOError:
                return
            yield from events_in(data)

    def close(self) -> None:
        os.close(self.descriptor)


class ClosedFiles:
    """A watch on a directory that reports each file when a writer closes it.

    `descriptor` is readable when there are `names`.
    """

    def __init__(self, directory: Path) -> None:
        """Watch a directory. Raises OSError."""
        self._watches = Watches()
        self.descriptor = self._watches.descriptor
        try:
            self._watches.add(directory, IN_CLOSE_WRITE)
        except OSError:
            self.close()
            raise

    def names(self) -> Iterator[str]:
        """Return the names of the files that writers closed since the last call. Raises OSError.

        Names may be missing, because the kernel's queue is bounded.
        """
        return (event.name for event in self._watches.events() if event.name)

    def close(self) -> None:
        self._watches.close()


def events_in(data: bytes) -> Iterator[Event]:
    """Yield the events in bytes that were read from an inotify descriptor.

    Raises OSError if the bytes end within an event.
    """
    at = 0
    while at < len(data):
        behind = at + HEADER.size
        watch, mask, _, size = HEADER.unpack_from(data, at) if behind <= len(data) else (0, 0, 0, 0)
        if behind + size > len(data):
            raise OSError(errno.EBADMSG, "an inotify event was cut off")
        yield Event(watch, mask, os.fsdecode(data[behind : behind + size].rstrip(b"\0")))
        at = behind + size
