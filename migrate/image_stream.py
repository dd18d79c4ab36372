"""CRIU's image files on their way to the agent, each as soon as it is written."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from checkpoint.host.inotify import ClosedFiles
from checkpoint.host.ready import ready
from checkpoint.images.repair import repaired
from migrate import protocol
from migrate.context import Context
from migrate.values import ImagePiece

CHUNK_BYTES = 1 << 20


class ImageStream:
    """Sends what is closed in the directory of images, in a thread, until `finish`, which sends the rest.

    The agent is ours alone meanwhile. `files` and `bytes` are what was sent; the target compares.
    """

    def __init__(self, move: Context) -> None:
        self._move = move
        self._closed = _closed_files(move.images)
        self._names: set[str] = set()
        self._pieces: list[ImagePiece] = []
        self._parts: list[memoryview] = []
        self._failure: Exception | None = None
        self._end = os.eventfd(0)
        self.files = self.bytes = 0
        self._thread = threading.Thread(target=self._follow, name="images", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """The dump is done. Raises what went wrong so far."""
        self._join()
        if self._failure is not None:
            raise self._failure
        for path in sorted(self._move.images.glob("*.img")):
            self._add_file(path.name)
        self._pass_on()

    def close(self) -> None:
        """Stop, finished or not."""
        self._join()
        if self._end >= 0:
            if self._closed is not None:
                self._closed.close()
            os.close(self._end)
            self._end = -1

    def _join(self) -> None:
        if self._thread.is_alive():
            os.eventfd_write(self._end, 1)
            self._thread.join()

    def _follow(self) -> None:
        if self._closed is None:
            return
        try:
            while self._end not in ready(self._closed.descriptor, self._end):
                for name in self._closed.names():
                    if name.endswith(".img"):
                        self._add_file(name)
                self._pass_on()
        except Exception as error:  # noqa: BLE001  (told by `finish`)
            self._failure = error

    def _add_file(self, name: str) -> None:
        if name not in self._names:
            self._names.add(name)
            self._add(name, memoryview(repaired(self._move.images / name)))

    def _add(self, name: str, data: memoryview) -> None:
        self.files += 1
        self.bytes += len(data)
        self._move.report.add_bytes("images", len(data))
        for start in range(0, max(len(data), 1), CHUNK_BYTES):
            piece = data[start : start + CHUNK_BYTES]
            self._pieces.append(ImagePiece(name, len(piece)))
            self._parts.append(piece)
            if sum(map(len, self._parts)) >= CHUNK_BYTES:
                self._pass_on()

    def _pass_on(self) -> None:
        if self._pieces:
            self._move.agent.stream(protocol.Images(pieces=tuple(self._pieces)), self._parts)
            self._pieces, self._parts = [], []


def _closed_files(directory: Path) -> ClosedFiles | None:
    """None where root has as many of these as it may have: then all images go at the end."""
    try:
        return ClosedFiles(directory)
    except OSError:
        return None
