"""The guardian process: it watches the coordinator, and takes over when that is gone or too slow.

A coordinator that is too slow is killed first, whatever it hangs in: only one of the two may act.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from checkpoint.host.ram_directory import claim, directory_of
from checkpoint.host.ready import ready
from migrate.guardian.takeover import Criu, Remains, Takeover, Target
from migrate.journal.book import MigrationJournal
from migrate.journal.records import SOURCE
from migrate.leftovers import sweep
from migrate.network.source import MOST_INTERFACES, SourceFrames
from transport.connection import Connection

#: The words of the coordinator: the migration has begun, with its journal; the container must run
#: again by a time, with CRIU's pidfd once that is known; it is about to be killed, with the
#: conversation's socket; it runs; the guardian is to go on alone; the guardian is to end.
BEGUN, BY, KILLING, FREED, TAKE_OVER, RELEASED = b"b", b"d", b"k", b"f", b"t", b"r"
DEADLINE = struct.Struct("=q")
MAX_MESSAGE, MOST_FDS = 64, 1 + MOST_INTERFACES
#: How long before the deadline the guardian of a killed container makes its way to the target: it
#: connects, and starts an agent there.
APPROACH_S = 2.5
#: The longest wait for the end of a coordinator that was killed. One that hangs in the kernel takes
#: longer, but does not run any more.
DEATH_S = 0.1

Connect = Callable[[], AbstractContextManager[Connection]]


class Coordinator:
    """The coordinator as the guardian sees it: what it has told, and what it has handed over.

    `pidfd` is of its process. `journal` is -1 before there is anything to end.
    """

    def __init__(self, words: socket.socket, pidfd: int) -> None:
        self._words, self._pidfd = words, pidfd
        self._deadline_ns: int | None = None
        self._approached = False
        self._released = self._alone = False
        self.journal = -1
        self.frames: SourceFrames | None = None
        self.criu = Criu()

    def watch(self, approach: Callable[[], None]) -> bool:
        """Return True when the coordinator is gone, and False when it has released the guardian.

        `approach` makes the way to the target, in a thread.
        """
        while not (self._released or self._alone):
            if not ready(self._words.fileno(), timeout_s=self._wait_s()):
                if self._may_approach():
                    self._approached = True
                    approach()
                    continue
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                break
            message, fds, _, _ = socket.recv_fds(self._words, MAX_MESSAGE, MOST_FDS)
            if not message:
                break
            self._take(message, fds)
        if not (self._released or self._alone):
            ready(self._pidfd, timeout_s=DEATH_S)
        return not self._released

    def _may_approach(self) -> bool:
        """Return whether the target is all that is missing, and the way to it is not made yet."""
        return self.criu.socket is not None and not self._approached

    def _wait_s(self) -> float | None:
        """Return how long a word may be waited for, until the guardian does something itself."""
        if self._deadline_ns is None:
            return None
        left_s = (self._deadline_ns - time.monotonic_ns()) / 1e9
        return max(0.0, left_s - APPROACH_S if self._may_approach() else left_s)

    def _take(self, message: bytes, fds: list[int]) -> None:
        kind = message[:1]
        if kind == BEGUN:
            self.journal = fds[0]
        elif kind == BY:
            (self._deadline_ns,) = DEADLINE.unpack_from(message, 1)
            if fds:
                self.criu.pidfd = fds[0]
        elif kind == KILLING:
            self.criu.socket = socket.socket(fileno=fds[0])
            self.frames = SourceFrames.handed_over(fds[1:])
        elif kind == FREED:
            self._deadline_ns = None
        self._released |= kind == RELEASED
        self._alone |= kind == TAKE_OVER


def watch(
    coordinator: Coordinator,
    locks: Sequence[int],
    migration_id: str,
    source: Remains,
    connect: Connect,
) -> None:
    """Watch the coordinator until it releases the guardian, or end the migration in its place.

    `locks` are the descriptors of the container's locks.
    """
    target = Target(connect, migration_id, lambda _: None)
    if not coordinator.watch(target.approach) or coordinator.journal < 0:
        return
    claimed: list[int] = []
    with contextlib.suppress(OSError):  # there may be none yet
        claimed.append(claim(directory_of(migration_id)))
    journal = MigrationJournal.inherited(migration_id, SOURCE, coordinator.journal)
    Takeover(journal, source, coordinator.criu, target, frames=coordinator.frames).run()
    journal.close()
    for fd in [*locks, *claimed]:
        os.close(fd)
    sweep(lambda _: None)
