"""Keep the target's rootfs equal to the source's: once while running, again what changed, while frozen."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from checkpoint.criu.shim_install import install_program
from checkpoint.host.listener import Listener
from checkpoint.rootfs.changes import Changes, changes, snapshot, written_through_mappings
from checkpoint.rootfs.rsync import Rsync
from transport.errors import StreamError
from transport.ssh import Connection, RemoteProcess
from transport.throttle import RateLimit

WHOLE_TIMEOUT_S = 3600.0
FROZEN_TIMEOUT_S = 300.0
PIECE = 1 << 18


class RootfsSync:
    """Two passes of rsync over the SSH connection of the move."""

    def __init__(self, connection: Connection, root: Path, directory: Path, limit: RateLimit) -> None:
        self._root = root
        self._rsh = install_program("checkpoint.rootfs", "rsh", directory / "bin" / "rsh")
        self._bridge = Bridge(connection, directory / "rsync.sock", limit)
        # Taken before the first copy: what changes during it shows up as changed since.
        self._before = snapshot(root)
        self._armed: Rsync | None = None

    def copy_whole(self) -> int:
        """First pass, while the container runs. Returns bytes sent."""
        return Rsync.whole(self._root, self._root, self._rsh, self._bridge.path).finish(WHOLE_TIMEOUT_S)

    def arm(self) -> None:
        """Start the second pass; both its ends wait for the list of files."""
        self._armed = Rsync.armed(self._root, self._root, self._rsh, self._bridge.path)

    def find_changes(self, pids: list[int]) -> Changes:
        """What the second pass must copy and delete. The container must be frozen."""
        return changes(self._before, snapshot(self._root, attributes=False), written_through_mappings(pids))

    def copy_changes(self, found: Changes) -> int:
        """Second pass. Returns bytes sent."""
        assert self._armed is not None
        self._armed.send_list(found.changed)
        return self._armed.finish(FROZEN_TIMEOUT_S)

    def close(self) -> None:
        """End what still runs."""
        if self._armed is not None:
            self._armed.kill()
        self._bridge.close()


class Bridge:
    """Runs, over SSH, the remote commands that rsync asks its remote shell (rsh.py) for."""

    def __init__(self, connection: Connection, path: Path, limit: RateLimit) -> None:
        self.path = path
        self._limit = limit
        self._connection = connection
        self._listener = Listener(path, self._serve, "rsync bridge")

    def close(self) -> None:
        self._listener.close()

    def _serve(self, shell: socket.socket) -> None:
        with shell:
            command, fds, _, _ = socket.recv_fds(shell, 1 << 16, 2)
            if len(fds) != 2:
                return
            with _closing(fds) as (from_rsync, to_rsync):
                try:
                    remote = self._connection.run(command.decode())
                except StreamError:
                    return  # rsync's remote shell ends without a status, and rsync tells
                upstream = self._carry_upstream(remote, from_rsync)
                _carry_downstream(remote, to_rsync)
                status = remote.wait()
                # Only when its remote shell has ended does rsync end, and with it what upstream reads.
                with contextlib.suppress(OSError):
                    shell.send(str(status).encode())
                upstream.join()

    def _carry_upstream(self, remote: RemoteProcess, from_rsync: int) -> threading.Thread:
        def carry() -> None:
            with contextlib.suppress(OSError, StreamError):
                while data := os.read(from_rsync, PIECE):
                    self._limit.take(len(data))
                    remote.write(data)
                remote.end_input()

        thread = threading.Thread(target=carry, name="rsync upstream", daemon=True)
        thread.start()
        return thread


@contextlib.contextmanager
def _closing(fds: list[int]) -> Iterator[tuple[int, int]]:
    try:
        yield fds[0], fds[1]
    finally:
        for fd in fds:
            os.close(fd)


def _carry_downstream(remote: RemoteProcess, to_rsync: int) -> None:
    """Until the remote command closes its output."""
    with contextlib.suppress(OSError):
        while data := remote.read(PIECE):
            view = memoryview(data)
            while view:
                view = view[os.write(to_rsync, view) :]
