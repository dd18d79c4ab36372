"""The end of connections whose peer has fallen silent, also through proxies.

TCP's own keepalive watches one hop: with a ProxyJump or ProxyCommand, that to the proxy. So the
peer's sshd itself is asked questions, as with ServerAliveInterval and ServerAliveCountMax of
ssh_config(5). Any bytes from the peer count as an answer.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

INTERVAL_S = 5.0
#: The number of questions without an answer after which the connection is ended, one interval after
#: the last of them.
UNANSWERED = 2
LOOK_S = 0.5


class HeardSocket(socket.socket):
    """A connected socket that knows when bytes last came through it. It takes `other` over.

    `heard_s` is that time, of time.monotonic().
    """

    def __init__(self, other: socket.socket) -> None:
        super().__init__(other.family, other.type, other.proto, fileno=other.detach())
        self.heard_s = time.monotonic()

    def recv(self, size: int, flags: int = 0) -> bytes:
        data = super().recv(size, flags)
        self.heard_s = time.monotonic()
        return data


class Keepalive:
    """A watch over a connection, from its making until `close`.

    `ask` sends the peer one question. It may block, even for ever, and may raise any error. If the
    peer stays silent, the socket is shut down, so that every wait for the peer ends; `silent_s` is
    then the length of the silence in seconds, and None before.
    """

    def __init__(self, sock: HeardSocket, ask: Callable[[], object]) -> None:
        self._socket, self._ask = sock, ask
        self._closed = threading.Event()
        self.silent_s: float | None = None
        # There are two threads, because `ask` may block when nothing gets through.
        for job in (self._keep_asking, self._watch):
            threading.Thread(target=job, name="keepalive", daemon=True).start()

    def close(self) -> None:
        """End the watch."""
        self._closed.set()

    def _keep_asking(self) -> None:
        while not self._closed.wait(LOOK_S):
            if time.monotonic() - self._socket.heard_s >= INTERVAL_S:
                try:
                    self._ask()
                except Exception:  # noqa: BLE001  (the connection broke: its users see that)
                    return
                self._closed.wait(INTERVAL_S - LOOK_S)

    def _watch(self) -> None:
        while not self._closed.wait(LOOK_S):
            silent_s = time.monotonic() - self._socket.heard_s
            if silent_s >= INTERVAL_S * (UNANSWERED + 1):
                self.silent_s = silent_s
                _shut_down(self._socket)
                return


def _shut_down(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already
