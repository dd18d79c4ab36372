"""End a connection whose peer says nothing any more, whatever lies in between.

TCP's own keepalive watches one hop: through a ProxyJump or ProxyCommand that is the proxy. So the peer's sshd itself
is asked, as ServerAliveInterval and ServerAliveCountMax of ssh_config(5) have it. Whatever comes from it is an answer.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

INTERVAL_S = 5.0
#: After so many questions without a word the peer is given up on, one interval after the last of them.
UNANSWERED = 2
LOOK_S = 0.5


class HeardSocket(socket.socket):
    """A connected socket that knows when something last came through it. Takes `other` over."""

    def __init__(self, other: socket.socket) -> None:
        super().__init__(other.family, other.type, other.proto, fileno=other.detach())
        self.heard_s = time.monotonic()

    def recv(self, size: int, flags: int = 0) -> bytes:
        data = super().recv(size, flags)
        self.heard_s = time.monotonic()
        return data


class Keepalive:
    """Watches from now until `close`. `ask` sends one question; it may block, even for ever, and may raise anything.

    A peer that stays silent has its socket shut down, so that everybody who waits for it is told.
    """

    def __init__(self, sock: HeardSocket, ask: Callable[[], object]) -> None:
        self._socket, self._ask = sock, ask
        self._closed = threading.Event()
        self.silent_s: float | None = None
        # Two threads: where nothing gets through, to ask blocks, too.
        for job in (self._keep_asking, self._watch):
            threading.Thread(target=job, name="keepalive", daemon=True).start()

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()

    def _keep_asking(self) -> None:
        while not self._closed.wait(LOOK_S):
            if time.monotonic() - self._socket.heard_s >= INTERVAL_S:
                try:
                    self._ask()
                except Exception:  # noqa: BLE001  (the connection broke: who uses it is told)
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
