"""The target's end of a container's file trees, and the one way in which the source fills them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path

from checkpoint.errors import CommandFailed
from checkpoint.files.beneath import TreeRoot
from checkpoint.files.enclosure import Gate, start_enclosed
from checkpoint.files.rsync import served
from checkpoint.host.listener import Listener
from checkpoint.host.paths import RUN
from checkpoint.host.ram_directory import MODE
from migrate.agent.plug_command import PLUGGED, ServeRsync
from migrate.wire.message import ProtocolError, decode

MAX_MESSAGE_BYTES = 1 << 16
REFUSED = 125


def socket_path(migration_id: str) -> Path:
    """Return the path of the unix socket at which a migration's agent takes rsync's channels."""
    return RUN / f"{migration_id}.trees"


class TreeDoor:
    """The trees that the source may fill, each under a key; the source names no path of the target.

    A key is a tree's destination in the container, or IMAGE for the files of the container image.
    From the first `show` on, a thread listens at the unix socket `path` for channels of rsync
    clients (agent/plug.py). Each channel is served by an rsync in an enclosure with its tree.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str | None, Path] = {}
        self._roots: dict[str | None, TreeRoot] = {}
        self._listener: Listener | None = None
        self._running: set[subprocess.Popen[bytes]] = set()
        #: One for each rsync. Once rsync runs, no process but the agent has a descriptor of the
        #: tree.
        self._gates: list[Gate] = []

    def show(self, places: Iterable[tuple[str | None, Path]]) -> tuple[str, ...]:
        """Add trees by key and path; a key that is known keeps its path.

        Returns the keys of all trees that the source can fill now, without IMAGE.
        """
        self._places = {**dict(places), **self._places}
        if self._listener is None:
            self._path.parent.mkdir(mode=MODE, exist_ok=True)
            self._listener = Listener(self._path, self._serve, "rsync")
        return tuple(key for key in self._places if key is not None)

    def root(self, key: str | None) -> TreeRoot:
        """Return the tree of a key, opened when it is first needed.

        Raises ProtocolError for a key that was not shown, and OSError.
        """
        if key not in self._places:
            raise ProtocolError(f"there is no tree {key!r}")
        if key not in self._roots:
            self._roots[key] = TreeRoot(self._places[key])
        return self._roots[key]

    def complete(self) -> None:
        """Close all trees, because the engine is about to unmount some; none can be filled then.

        Waits first until each rsync that was started runs in its enclosure, or has ended.
        """
        while self._gates:
            self._gates.pop().wait()
        for root in self._roots.values():
            root.close()
        self._roots.clear()
        self._places.clear()

    def end_running(self) -> None:
        """Kill every rsync that still runs."""
        for process in tuple(self._running):
            process.kill()
            process.wait()

    def close(self) -> None:
        """Take no further channels, kill every rsync that still runs, and close all trees."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.end_running()
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
        """Run the rsync that `message` (ServeRsync) asks for, until its end.

        `fds` are the channel: what rsync reads, and what it writes to. Returns rsync's exit status
        and its standard error. Raises ProtocolError, ValueError, CommandFailed or OSError if rsync
        cannot be started.
        """
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
        while fds:  # an open descriptor would keep the channel from ending with rsync
            os.close(fds.pop())
        _, errors = process.communicate()
        self._running.discard(process)
        return process.returncode & 0xFF, errors.decode(errors="replace")
