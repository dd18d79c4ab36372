"""Reads what an enclosed program writes to its standard error, as it comes."""

from __future__ import annotations

import subprocess
from typing import IO

from checkpoint.host.worker import Worker

#: How many bytes are kept. A container can make a program complain of each of its files.
MOST_BYTES = 1 << 16
PIECE_BYTES = 1 << 12


class Complaints:
    """Takes the standard error of a process and reads it in a thread until its end.

    A program that nobody reads stands still when 64 KiB of complaints fill the pipe. Only the first
    MOST_BYTES are kept.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        self._pipe: IO[bytes] = process.stderr
        process.stderr = None
        self._kept = bytearray()
        self._reader = Worker("complaints", self._read)

    def text(self) -> str:
        """Wait for the end of what the process writes, and return what was kept."""
        self._reader.wait()
        self._pipe.close()
        return self._kept.decode(errors="replace")

    def _read(self) -> None:
        while piece := self._pipe.read(PIECE_BYTES):
            self._kept += piece[: MOST_BYTES - len(self._kept)]
