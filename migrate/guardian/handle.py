"""The coordinator's handle of the guardian, and the words between the two.

The guardian is a process of its own: it outlives the coordinator and the terminal, and the OOM
killer spares it. It is forked before the connection to the target is made, because a fork has none
of the threads that a connection needs. It gets copies of all descriptors on which the end of a
migration hangs: the container's locks, the journal, CRIU and the conversation with it.

As long as the coordinator lives and is in time, the guardian does nothing (watch.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from checkpoint.criu.interposer import Conversation
from checkpoint.host.detached import Detached
from checkpoint.host.lock import Locks
from migrate.guardian.takeover import Remains
from migrate.guardian.watch import (
    BEGUN,
    BY,
    DEADLINE,
    FREED,
    KILLING,
    RELEASED,
    TAKE_OVER,
    Coordinator,
    watch,
)
from migrate.journal.book import MigrationJournal
from migrate.network.source import SourceFrames
from transport.connection import Connection

#: The time within which the guardian must take a word, and end when it is released.
PATIENCE_S = 2.0
#: How long after the coordinator's own time limit the guardian acts.
GRACE_S = 0.3


class Guardian:
    """The guardian of one migration, which the constructor forks. Use it as a context.

    `source` is the container on this host, `locks` are its locks, and `connect` makes a connection
    to the target. At the end of the context the guardian is released, unless it was told to take
    over. Without a guardian that was killed the migration goes on.
    """

    def __init__(
        self,
        migration_id: str,
        source: Remains,
        locks: Locks,
        connect: Callable[[], AbstractContextManager[Connection]],
    ) -> None:
        self._left, self._locks = False, locks
        self._deadline_ns: int | None = None
        pidfd = os.pidfd_open(os.getpid())
        try:
            self._process = Detached(
                lambda words: watch(
                    Coordinator(words, pidfd), locks.descriptors, migration_id, source, connect
                ),
                patience_s=PATIENCE_S,
                kept=[pidfd, *locks.descriptors],
            )
        finally:
            os.close(pidfd)

    @property
    def pid(self) -> int:
        """The pid of the guardian process."""
        return self._process.pid

    def __enter__(self) -> Guardian:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._left:
            self._process.release(RELEASED)

    def begin(self, journal: MigrationJournal) -> None:
        """Hand over the journal. From now on there is something to end if the coordinator dies."""
        self._process.tell(BEGUN, journal.fileno())

    def expect(self, deadline_ns: int, conversation: Conversation | None = None) -> None:
        """Have the guardian take over if `freed` does not come in time.

        `deadline_ns` is the coordinator's own (CLOCK_MONOTONIC); the guardian waits for GRACE_S
        more. `conversation` is that with the CRIU that freezes the container, once it is known.
        """
        self._deadline_ns = deadline_ns
        until = DEADLINE.pack(deadline_ns + int(GRACE_S * 1e9))
        self._process.tell(BY + until, *([] if conversation is None else [conversation.criu_pidfd]))

    def killing(self, conversation: Conversation, frames: SourceFrames) -> None:
        """Hand over what is needed from the kill on, just before it.

        That is the conversation with CRIU, which must not undo anything for a dead container, as it
        would if its peer was gone; and the frames that came for the container.
        """
        self._process.tell(KILLING, conversation.criu.fileno(), *frames.descriptors)

    def freed(self) -> None:
        """Tell that the container runs, on either host."""
        self._deadline_ns = None
        self._process.tell(FREED)

    def left_s(self) -> float | None:
        """Return the seconds until the deadline of `expect`; None if the container runs."""
        if self._deadline_ns is None:
            return None
        return max(0.0, (self._deadline_ns - time.monotonic_ns()) / 1e9)

    def take_over(self) -> None:
        """Have the guardian go on in the place of a coordinator that gives up, with its locks."""
        self._left = True
        self._process.leave(TAKE_OVER)
        self._locks.leave()


def in_ns(seconds: float) -> int:
    """Return the deadline that is so many seconds from now, on CLOCK_MONOTONIC in ns."""
    return time.monotonic_ns() + int(seconds * 1e9)
