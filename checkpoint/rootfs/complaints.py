"""What an enclosed program writes to its standard error, read as it comes."""

from __future__ import annotations

import threading
from typing import IO

#: How much of the beginning is kept. A container can make a program complain of each of its files.
MOST_BYTES = 1 << 16
PIECE_BYTES = 1 << 12


class Complaints:
    """Reads a pipe in a thread until its end, so that the program never waits for a reader.

    Only the first MOST_BYTES are kept.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._read, name="complaints", daemon=True)
        self._thread.start()

    def text(self) -> str:
        """Wait for the end of the pipe, close it, and return what was kept."""
        self._thread.join()
        self._pipe.close()
        return self._kept.decode(errors="replace")

    def _read(self) -> None:
        while piece := self._pipe.read(PIECE_BYTES):
            self._kept += piece[: MOST_BYTES - len(self._kept)]
