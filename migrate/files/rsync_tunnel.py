"""The connection of rsync on the source with rsync on the target, over SSH.

The agent starts the target's rsync, on a tree that the source names only by a key.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from checkpoint.files.rsync import UNKNOWN, Ending, Rsync
from checkpoint.host import whole
from checkpoint.host.worker import Worker
from migrate.agent.plug_command import PLUGGED, ServeRsync, plug_command
from migrate.wire.message import encode
from transport.connection import Connection, Process
from transport.errors import StreamError
from transport.framing import widen_pipe
from transport.throttle import RateLimit

PIECE_BYTES = 1 << 18
MAX_COMPLAINT_BYTES = 4096


class RsyncTunnel:
    """A carrier between the rsyncs of both hosts, with an SSH channel for each pair.

    `socket_path` is where the agent takes the channels; `limit` holds what is sent to a rate.
    """

    def __init__(self, connection: Connection, socket_path: Path, limit: RateLimit) -> None:
        self._connection, self._socket_path, self._limit = connection, socket_path, limit

    def rsync(self, tree: int, key: str | None) -> Rsync:
        """Return an rsync from a tree of the source to the tree that the agent knows as `key`.

        `tree` is a descriptor of the root of the source's tree.
        """
        return Rsync(tree, partial(self._carry, key))

    def _carry(
        self,
        key: str | None,
        words: Sequence[str],
        from_rsync: int,
        to_rsync: int,
        answered: Callable[[], None],
    ) -> Ending:
        """Carry between one rsync and its other end (checkpoint.files.rsync.Carry).

        Returns how the other end ended. The source's rsync ends only after `to_rsync` is closed,
        and `from_rsync` comes to its end only then.
        """
        remote = upstream = None
        try:
            message = encode(ServeRsync(tree=key, words=tuple(words))).decode()
            remote = self._connection.run(plug_command(self._socket_path, message))
            upstream = self._upstream(remote, from_rsync)
            plugged = remote.read(len(PLUGGED))
            if plugged == PLUGGED:
                _downstream(remote, to_rsync, answered)
            status = remote.wait()
            complaint = remote.read_errors(MAX_COMPLAINT_BYTES) if status != 0 else b""
            return Ending(status=status, complaint=complaint.decode(errors="replace"))
        except StreamError as error:
            return Ending(status=UNKNOWN, complaint=str(error))
        finally:
            os.close(to_rsync)
            if remote is not None:
                remote.close()  # also ends a write of `upstream` that waits for the other host
            if upstream is not None:
                upstream.wait()
            os.close(from_rsync)

    def _upstream(self, remote: Process, from_rsync: int) -> Worker[None]:
        widen_pipe(from_rsync)

        def carry() -> None:
            with contextlib.suppress(OSError, StreamError):
                while data := os.read(from_rsync, PIECE_BYTES):  # short result: the loop goes on
                    self._limit.take(len(data))
                    remote.write(data)
                remote.end_input()

        return Worker("rsync upstream", carry)


def _downstream(remote: Process, to_rsync: int, answered: Callable[[], None]) -> None:
    """Pass the remote rsync's output on until it ends; call `answered` for each piece."""
    with contextlib.suppress(OSError):
        while data := remote.read(PIECE_BYTES):
            whole.write(to_rsync, data)
            answered()
