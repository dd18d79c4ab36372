"""Keep the target's files equal to the source's: while running, and what changed last, while frozen."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from checkpoint.criu.shim_install import install_program
from checkpoint.host.listener import Listener
from checkpoint.rootfs import overlay
from checkpoint.rootfs.changes import Changes, Snapshot, changes, snapshot, written_through_mappings
from checkpoint.rootfs.rsync import Rsync, Running
from checkpoint.runtimes.base import ROOTFS, Tree
from migrate import protocol
from migrate.agent.client import AgentClient
from migrate.values import DirectoryTime, in_pieces
from transport.connection import Connection, Process
from transport.errors import StreamError
from transport.throttle import RateLimit

WHOLE_TIMEOUT_S = 3600.0
FROZEN_TIMEOUT_S = 300.0
PIECE = 1 << 18


class TreeSync:
    """Passes of rsync for one tree: whole, what changed since, and that again, frozen.

    Raises CommandFailed, AgentFailed or AgentGone.
    """

    def __init__(self, tree: Tree, target: Path, rsync: Rsync, agent: AgentClient) -> None:
        self._tree, self._target, self._agent = tree, target, agent
        self._rsync = rsync
        # Taken before the first copy: what changes during it shows up as changed since.
        self._before = snapshot(tree.layer or tree.root)
        self._armed: Running | None = None
        #: Files that are on the target, maybe without being in `_before`: made and copied after that was taken.
        self._there: set[str] = set()

    @property
    def kind(self) -> str:
        """What its bytes are reported as."""
        return "rootfs" if self._tree.destination == ROOTFS else "volumes"

    def copy_whole(self) -> int:
        """First pass, while the container runs. Returns bytes sent."""
        if self._tree.layer is None:
            return self._rsync.whole(self._tree.root, self._target).finish(WHOLE_TIMEOUT_S)
        found = overlay.content(self._before, self._tree.root)
        self._remove(found.removed)
        self._there.update(found.changed)
        listed = self._rsync.listed(self._tree.root, self._target)
        listed.send_list(found.changed)
        return listed.finish(WHOLE_TIMEOUT_S)

    def catch_up(self) -> int:
        """A pass of what changed since the one before, while the container runs. Returns bytes sent."""
        now = snapshot(self._before.root)
        found = self._told(changes(self._before, now))
        self._before = now
        self.arm()
        sent = self._apply(found, WHOLE_TIMEOUT_S)
        self._there.update(found.changed)
        if self._tree.layer is None:
            listed = self._agent.request_all(protocol.ListTree(tree=self._tree.destination))
            # Those that are in `_before` are seen to go by comparing it.
            self._there = {path for piece in listed for path in piece.paths if path not in now.files}
        return sent

    def arm(self) -> None:
        """Start the next pass; both its ends wait for the list of files."""
        if self._armed is None:
            self._armed = self._rsync.listed(self._tree.root, self._target)

    def copy_changes(self, pids: list[int]) -> int:
        """The last pass: usually of nothing, or a few files. The container must be frozen. Returns bytes sent."""
        inside = f"{self._tree.destination.strip('/')}/".lstrip("/")
        mapped = written_through_mappings(pids)
        written = [path.removeprefix(inside) for path in mapped if path.startswith(inside)]
        now = snapshot(self._before.root, attributes=False)
        found = self._told(changes(self._before, now, written))
        return self._apply(replace(found, removed=self._gone(found, now)), FROZEN_TIMEOUT_S)

    def _gone(self, found: Changes, now: Snapshot) -> tuple[str, ...]:
        """What is to be removed, with what came and went between two looks."""
        left = self._there - now.files.keys()
        if self._tree.layer is not None:  # lower layers may have it
            left = {path for path in left if not os.path.lexists(self._tree.root / path)}
        return tuple(sorted(left.union(found.removed)))

    def close(self) -> None:
        """End what still runs."""
        if self._armed is not None:
            self._armed.kill()

    def _apply(self, found: Changes, timeout_s: float) -> int:
        self._remove(found.removed)
        sent = 0
        if found.changed:
            assert self._armed is not None
            self._armed.send_list(found.changed)
            sent = self._armed.finish(timeout_s)
            self._armed = None
        if found.directories:
            times = [DirectoryTime(*directory) for directory in found.directories]
            for piece in in_pieces(times):
                self._agent.request(protocol.SetTimes(tree=self._tree.destination, directories=piece))
        return sent

    def _told(self, found: Changes) -> Changes:
        """Of an overlay's layer, as changes to what the overlay shows."""
        return overlay.translated(found, self._before, self._tree.root) if self._tree.layer is not None else found

    def _remove(self, paths: Sequence[str]) -> None:
        for piece in in_pieces(paths):
            self._agent.request(protocol.Remove(tree=self._tree.destination, paths=piece))


class Bridge:
    """Runs, over SSH, the remote commands that rsync asks its remote shell (rsh.py) for."""

    def __init__(self, connection: Connection, directory: Path, limit: RateLimit) -> None:
        path = directory / "rsync.sock"
        self.rsync = Rsync(install_program("checkpoint.rootfs", "rsh", directory / "bin" / "rsh"), path)
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

    def _carry_upstream(self, remote: Process, from_rsync: int) -> threading.Thread:
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


def _carry_downstream(remote: Process, to_rsync: int) -> None:
    """Until the remote command closes its output."""
    with contextlib.suppress(OSError):
        while data := remote.read(PIECE):
            view = memoryview(data)
            while view:
                view = view[os.write(to_rsync, view) :]
