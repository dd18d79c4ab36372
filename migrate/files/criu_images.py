"""The stream of CRIU's image files to the agent, each sent as soon as it is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from checkpoint.criu.images.mm import may_be_lazy
from checkpoint.criu.images.repair import repaired
from checkpoint.host.inotify import ClosedFiles
from checkpoint.host.ready import ready
from checkpoint.host.worker import Worker
from checkpoint.memory.ranges import Range
from migrate.agent.client import AgentClient
from migrate.wire import protocol
from migrate.wire.values import ImagePiece

CHUNK_BYTES = 1 << 20


class ImageStream:
    """A thread that sends each file of the directory of images when CRIU closes it.

    `finish` ends the thread and sends the rest. Nothing else may be sent to the agent while the
    thread runs. `files` and `bytes` count what was sent; the target compares them with what it
    received. The thread also reads the mappings of each process (`may_be_lazy`), because that takes
    a millisecond or more, and CRIU is still busy with the dump meanwhile.
    `directory` is the directory of images. `account` is called with the size of each file that is
    sent. `waiting` returns the signals that wait for a process (checkpoint/criu/images/repair.py).
    `lazy` says that the target can restore pages lazily.
    """

    def __init__(
        self,
        directory: Path,
        agent: AgentClient,
        account: Callable[[int], None],
        waiting: Callable[[int], int],
        *,
        lazy: bool,
    ) -> None:
        self._directory, self._agent, self._account = directory, agent, account
        self._waiting = waiting
        self._restores_lazily = lazy
        self._closed = _closed_files(directory)
        self._names: set[str] = set()
        self._pieces: list[ImagePiece] = []
        self._parts: list[memoryview] = []
        #: By the name of an mm image file.
        self._lazy: dict[str, list[Range]] = {}
        self._end = os.eventfd(0)
        self.files = self.bytes = 0
        self._follower = Worker("images", self._follow)

    def finish(self) -> None:
        """End the thread and send the image files that it has not sent; the dump must be done.

        Raises the error with which the thread failed, and what AgentClient.stream raises.
        """
        self._end_follower()
        self._follower.result()
        for path in sorted(self._directory.glob("*.img")):
            self._add_file(path.name)
        self._pass_on()

    def may_be_lazy(self, process: int) -> list[Range]:
        """Return the ranges of a process that CRIU can restore lazily (criu/images/mm.py).

        There are none if the target restores no pages lazily. `process` is the pid in the process's
        own pid namespace. `finish` must have returned. Raises ImageError if the process's mm image
        is damaged, and OSError.
        """
        return self._lazy_in(f"mm-{process}.img") if self._restores_lazily else []

    def close(self) -> None:
        """End the thread and close the descriptors, whether everything was sent or not."""
        self._end_follower()
        if self._end >= 0:
            if self._closed is not None:
                self._closed.close()
            os.close(self._end)
            self._end = -1

    def _end_follower(self) -> None:
        if not self._follower.wait(0):
            os.eventfd_write(self._end, 1)
            self._follower.wait()

    def _follow(self) -> None:
        if self._closed is None:
            return
        while self._end not in ready(self._closed.descriptor, self._end):
            names = [name for name in self._closed.names() if name.endswith(".img")]
            for name in names:
                self._add_file(name)
            self._pass_on()
            for name in names:
                if name.startswith("mm-") and self._restores_lazily:
                    self._lazy_in(name)

    def _lazy_in(self, name: str) -> list[Range]:
        if name not in self._lazy:
            self._lazy[name] = may_be_lazy(self._directory / name)
        return self._lazy[name]

    def _add_file(self, name: str) -> None:
        if name not in self._names:
            self._names.add(name)
            self._add(name, memoryview(repaired(self._directory / name, self._waiting)))

    def _add(self, name: str, data: memoryview) -> None:
        self.files += 1
        self.bytes += len(data)
        self._account(len(data))
        for start in range(0, max(len(data), 1), CHUNK_BYTES):
            piece = data[start : start + CHUNK_BYTES]
            self._pieces.append(ImagePiece(name, len(piece)))
            self._parts.append(piece)
            if sum(map(len, self._parts)) >= CHUNK_BYTES:
                self._pass_on()

    def _pass_on(self) -> None:
        if self._pieces:
            self._agent.stream(protocol.CriuImages(pieces=tuple(self._pieces)), self._parts)
            self._pieces, self._parts = [], []


def _closed_files(directory: Path) -> ClosedFiles | None:
    """Return a watch for files that are closed in `directory`; None if it cannot be had.

    Root may have a limited number of them (inotify(7)). Without one, `finish` sends all image
    files.
    """
    try:
        return ClosedFiles(directory)
    except OSError:
        return None
