"""The trees of files that a container brings along, on the target: who may fill which, and how."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path

from checkpoint.errors import CommandFailed
from checkpoint.host.listener import Listener
from checkpoint.images.directory import MODE, RUN
from checkpoint.rootfs.beneath import TreeRoot
from checkpoint.rootfs.enclosure import Gate, start_enclosed
from checkpoint.rootfs.rsync import served
from migrate.message import ProtocolError, decode
from migrate.plugs import PLUGGED, ServeRsync

MAX_MESSAGE_BYTES = 1 << 16
REFUSED = 125


def socket_path(migration_id: str) -> Path:
    """Where the agent of a migration takes rsync's channels."""
    return RUN / f"{migration_id}.trees"


class TreeDoor:
    """Knows each tree by a key: its destination in the container, or IMAGE. The source names no path of the target.

    Listens at `path`, from the first tree on, for channels (agent/plug.py) of rsync clients, and serves them by rsync
    in an enclosure with the tree.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str | None, Path] = {}
        self._roots: dict[str | None, TreeRoot] = {}
        self._listener: Listener | None = None
        self._running: set[subprocess.Popen[bytes]] = set()
        #: Once its rsync runs, no other process has a descriptor of the tree.
        self._gates: list[Gate] = []

    def show(self, places: Iterable[tuple[str | None, Path]]) -> tuple[str, ...]:
        """Tell where trees are, by key; what was told before stays. Returns the keys of all that can be filled."""
        self._places = {**dict(places), **self._places}
        if self._listener is None:
            self._path.parent.mkdir(mode=MODE, exist_ok=True)
            self._listener = Listener(self._path, self._serve, "rsync")
        return tuple(key for key in self._places if key is not None)

    def root(self, key: str | None) -> TreeRoot:
        """The tree, opened when it is first asked for. Raises ProtocolError for one that was not shown, or OSError."""
        if key not in self._places:
            raise ProtocolError(f"there is no tree {key!r}")
        if key not in self._roots:
            self._roots[key] = TreeRoot(self._places[key])
        return self._roots[key]

    def complete(self) -> None:
        """Nothing more will come: let go of the trees. The engine is about to unmount some."""
        while self._gates:
            self._gates.pop().wait()
        for root in self._roots.values():
            root.close()
        self._roots.clear()
        self._places.clear()

    def close(self) -> None:
        """End what still fills trees, and let go of them."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for process in tuple(self._running):
            process.kill()
            process.wait()
        self.complete()

    def _serve(self, plug: socket.socket) -> None:
        with plug:
            message, fds, _, _ = socket.recv_fds(plug, MAX_MESSAGE_BYTES, 2)
            try:
                status, told = self._run(message, fds)
            except (ProtocolError, CommandFailed, ValueError, OSError) as error:
                status, told = REFUSED, f"{error}\n"
            finally:
                for fd in fds:
                    with contextlib.suppress(OSError):
                        os.close(fd)
            with contextlib.suppress(OSError):
                plug.send(f"{status}\n{told}".encode(errors="replace")[:MAX_MESSAGE_BYTES])

    def _run(self, message: bytes, fds: list[int]) -> tuple[int, str]:
        """rsync with these streams, to its end. Returns its status, and what it complained of."""
        asked = decode(message, b"", ServeRsync)
        reader, writer = fds
        os.write(writer, PLUGGED)  # short result: one byte
        root, argv = self.root(asked.tree), served(asked.words)
        self._gates.append(gate := Gate())
        with gate:
            process = start_enclosed(
                argv, root.fd, gate=gate.held, stdin=reader, stdout=writer, stderr=subprocess.PIPE
            )
        self._running.add(process)
        while fds:  # or the channel would not end with rsync
            os.close(fds.pop())
        _, errors = process.communicate()
        self._running.discard(process)
        return process.returncode & 0xFF, errors.decode(errors="replace")
