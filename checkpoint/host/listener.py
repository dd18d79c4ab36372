"""A root-only unix socket that serves each connection in a thread of its own."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

from checkpoint.host.worker import Worker


def has_listener(path: Path) -> bool:
    """Return whether a process listens at the SEQPACKET socket `path`. Raises OSError.

    The listening process gets a connection that ends at once.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except BlockingIOError:  # the queue of connections to be accepted is full
            return True
        except (ConnectionRefusedError, FileNotFoundError):
            # The owner of the socket was killed (unix(7)), or is just closing it.
            return False
    return True


class Listener:
    """A SEQPACKET socket at `path` that listens from its making until `close`.

    Each connection is given to `serve` in a new thread, and `serve` has to close it. Raises OSError
    when it is made.
    """

    def __init__(self, path: Path, serve: Callable[[socket.socket], None], name: str) -> None:
        self._path, self._serve, self._name = path, serve, name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(path))
        path.chmod(0o600)
        self._socket.listen(8)
        Worker(name, self._accept)

    def close(self) -> None:
        """Accept no further connections and remove the socket. Connections in service go on."""
        # shutdown before close, because a thread in accept() does not notice a close.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            Worker(self._name, partial(self._serve, connection))


def peer_pid(peer: socket.socket) -> int:
    """Return the pid of the process at the other end of a socket (unix(7), SO_PEERCRED).

    For an accepted connection that is the process that connected; for a socket of a socketpair it
    is the process that made the pair.
    """
    layout = struct.Struct("3i")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)
    return int(layout.unpack(credentials)[0])
