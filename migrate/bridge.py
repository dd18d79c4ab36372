"""Connects rsync on the source with rsync on the target, which the agent starts on a tree that it knows by a name."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from checkpoint.host import whole
from checkpoint.rootfs.rsync import Ending, Rsync
from migrate.message import encode
from migrate.plugs import PLUGGED, ServeRsync, plug_command
from transport.connection import Connection, Process
from transport.descriptors import widen_pipe
from transport.errors import StreamError
from transport.throttle import RateLimit

PIECE_BYTES = 1 << 18
MAX_COMPLAINT_BYTES = 4096
#: As ssh(1) ends when the connection broke.
BROKEN = 255


class Bridge:
    """Carries between the rsyncs on an SSH channel each; `socket_path` is where the agent takes the channels."""

    def __init__(self, connection: Connection, socket_path: Path, limit: RateLimit) -> None:
        self._connection, self._socket_path, self._limit = connection, socket_path, limit

    def rsync(self, tree: int, key: str | None) -> Rsync:
        """rsync from a tree, given as a descriptor of its root, to the one that the agent knows as `key`."""
        return Rsync(tree, partial(self._carry, key))

    def _carry(
        self,
        key: str | None,
        words: Sequence[str],
        from_rsync: int,
        to_rsync: int,
        answered: Callable[[], None],
    ) -> Ending:
        """See checkpoint.rootfs.rsync.Carry. rsync ends only once `to_rsync` is closed, and with it `from_rsync`."""
        upstream = None
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
            return Ending(status=BROKEN, complaint=str(error))
        finally:
            os.close(to_rsync)
            if upstream is not None:
                upstream.join()
            os.close(from_rsync)

    def _upstream(self, remote: Process, from_rsync: int) -> threading.Thread:
        widen_pipe(from_rsync)

        def carry() -> None:
            with contextlib.suppress(OSError, StreamError):
                while data := os.read(from_rsync, PIECE_BYTES):  # short result: goes on
                    self._limit.take(len(data))
                    remote.write(data)
                remote.end_input()

        thread = threading.Thread(target=carry, name="rsync upstream", daemon=True)
        thread.start()
        return thread


def _downstream(remote: Process, to_rsync: int, answered: Callable[[], None]) -> None:
    """Until the remote rsync closes its output."""
    with contextlib.suppress(OSError):
        while data := remote.read(PIECE_BYTES):
            whole.write(to_rsync, data)
            answered()
