"""The copy of what the container has printed, as its engine logged it.

With it the `logs` command of the engine on the target goes on where the source's ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import termios
import time
from pathlib import Path

from checkpoint.engines.base import MOST_OUTPUT_BYTES
from checkpoint.host import proc
from migrate.agent.client import AgentClient
from migrate.wire import protocol

PIECE_BYTES = 1 << 18
MOST_LINE_BYTES = 1 << 20
#: The time that the frozen container's engine gets to read what is in the pipes. It has usually
#: read everything before.
DRAIN_S = 0.02
LOOK_AGAIN_S = 0.0005


class OutputSync:
    """The copy of one engine's log of a container.

    Raises AgentGone, and OSError if the log cannot be read.
    """

    def __init__(self, agent: AgentClient, log: Path) -> None:
        self._agent = agent
        self._file = log.open("rb", buffering=0)
        #: The beginning of a line whose end is not logged yet; and whether what follows is the rest
        #: of a line that is left out.
        self._begun, self._inside = b"", False
        if (size := os.fstat(self._file.fileno()).st_size) > MOST_OUTPUT_BYTES:
            self._file.seek(size - MOST_OUTPUT_BYTES)
            self._inside = True

    def copy(self) -> int:
        """Send what was logged since the last call. Returns the bytes sent.

        The first call sends everything, of a long log the last MOST_OUTPUT_BYTES. Only whole lines
        are sent, and none of more than MOST_LINE_BYTES, which no engine writes. What is logged
        meanwhile is sent, too, as long as less and less of it comes: a container may print faster
        than the link carries.
        """
        sent, before = 0, sys.maxsize
        while 0 < (waiting := self._left()) < before:
            sent, before = sent + self._copy(waiting), waiting
        return sent

    def _left(self) -> int:
        return os.fstat(self._file.fileno()).st_size - self._file.tell()

    def _copy(self, most: int) -> int:
        """Send the next `most` bytes of the log, as far as they are whole lines.

        Returns the bytes sent.
        """
        sent = 0
        while piece := self._file.read(min(PIECE_BYTES, most)):
            most -= len(piece)
            lines = self._begun + piece
            if self._inside:
                _, end, lines = lines.partition(b"\n")
                self._inside = not end
            whole, end, self._begun = lines.rpartition(b"\n")
            if len(self._begun) > MOST_LINE_BYTES:
                self._begun, self._inside = b"", True
            if end:
                self._agent.stream(protocol.Output(), [whole + end])
                sent += len(whole) + len(end)
        return sent

    def copy_rest(self, init: int) -> int:
        """Send the rest of what was logged, with the container frozen. Returns the bytes sent.

        What the container wrote before the freeze is in the log by then, or is soon: this waits
        until the engine has read the pipes that are the output of `init` (a pid), but no longer
        than DRAIN_S.
        """
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline and any(waiting_bytes(init, stream) for stream in (1, 2)):
            time.sleep(LOOK_AGAIN_S)
        return self.copy()

    def close(self) -> None:
        self._file.close()


def waiting_bytes(pid: int, stream: int) -> int:
    """Return how many bytes wait in the pipe that a process's stream is; 0 if it is no pipe."""
    with contextlib.suppress(OSError):
        fd = os.open(proc.path(pid, "fd", stream), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0])
        finally:
            os.close(fd)
    return 0
