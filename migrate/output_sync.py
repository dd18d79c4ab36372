"""Carry what the container has printed so far, as its engine logged it, so that the engine's `logs` goes on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
import time
from pathlib import Path

from checkpoint.runtimes.base import MOST_OUTPUT_BYTES
from migrate import protocol
from migrate.agent.client import AgentClient

PIECE_BYTES = 1 << 18
MOST_LINE_BYTES = 1 << 20
#: How long the frozen container's engine may take to read what is in the pipes. It is usually done before.
DRAIN_S = 0.02
LOOK_AGAIN_S = 0.0005


class OutputSync:
    """One engine's log of a container. Raises AgentGone, and OSError if it cannot be read."""

    def __init__(self, agent: AgentClient, log: Path) -> None:
        self._agent = agent
        self._file = log.open("rb", buffering=0)
        #: The beginning of a line that is being written; whether what follows is the rest of a line that is left out.
        self._begun, self._inside = b"", False
        if (size := os.fstat(self._file.fileno()).st_size) > MOST_OUTPUT_BYTES:
            self._file.seek(size - MOST_OUTPUT_BYTES)
            self._inside = True

    def copy(self) -> int:
        """What was added since the last time, at first everything. Returns bytes sent.

        Only whole lines, and none of more than MOST_LINE_BYTES, which no engine writes.
        """
        sent = 0
        while piece := self._file.read(PIECE_BYTES):
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
        """Likewise, with the container frozen: what it has written before is in the log by then, or soon."""
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline and any(_waiting(init, stream) for stream in (1, 2)):
            time.sleep(LOOK_AGAIN_S)
        return self.copy()

    def close(self) -> None:
        self._file.close()


def _waiting(pid: int, stream: int) -> int:
    """Bytes in the pipe that a stream of a process is; 0 for whatever else it is."""
    with contextlib.suppress(OSError):
        fd = os.open(f"/proc/{pid}/fd/{stream}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0])
        finally:
            os.close(fd)
    return 0
