"""A root-only unix socket that serves each connection in a thread of its own."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path


def has_listener(path: Path) -> bool:
    """Whether a process listens at a SEQPACKET socket; it finds a connection that ends at once. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except BlockingIOError:  # it has not taken the connections before this one yet
            return True
        except (
            ConnectionRefusedError,
            FileNotFoundError,
        ):  # its owner was killed (unix(7)), or closes it just now
            return False
    return True


class Listener:
    """Listens at `path` (SEQPACKET) from now until `close`; `serve` owns the connection it is given."""

    def __init__(self, path: Path, serve: Callable[[socket.socket], None], name: str) -> None:
        self._path, self._serve, self._name = path, serve, name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(path))
        path.chmod(0o600)
        self._socket.listen(8)
        self._spawn(self._accept)

    def close(self) -> None:
        """Take no further connection. Those that are served go on."""
        # shutdown, not only close: a thread in accept() does not notice a close.
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
            self._spawn(self._serve, connection)

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        threading.Thread(target=target, args=args, name=self._name, daemon=True).start()


def peer_pid(peer: socket.socket) -> int:
    """The pid of whoever connected, or made the pair (unix(7), SO_PEERCRED)."""
    layout = struct.Struct("3i")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)
    return int(layout.unpack(credentials)[0])
