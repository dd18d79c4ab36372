"""The line server of the workloads, which runs in a workload's own epoll loop, without threads.

A container runs a script of this directory with the directory as sys.path[0]; a test imports it as
tests.workloads.*. Hence, in each script that uses this one:

    if TYPE_CHECKING or __package__:
        from tests.workloads.status import LineServer
    else:
        from status import LineServer
"""

import json
import os
import select
import signal
import socket
from collections.abc import Callable

MAX_LINE_BYTES = 4096
MAX_UNSENT_BYTES = 1 << 20


def tcp_listener(host: str, port: int) -> socket.socket:
    """Listen on a port, and print `PORT n` as the first line on stdout.

    Port 0 stands for any that is free.
    """
    listener = socket.create_server((host, port), backlog=16)
    print("PORT", listener.getsockname()[1], flush=True)
    return listener


def status_answer(report: Callable[[], dict[str, object]]) -> Callable[[str], str]:
    """Return the `answer` of a server that knows STATUS and INCR.

    INCR is for redis_client.py, and counts by one whatever its key is.
    """
    count = 0

    def answer(line: str) -> str:
        nonlocal count
        if line.startswith("INCR "):
            count += 1
            return f":{count}\r"
        return json.dumps(
            report() if line == "STATUS" else {"ok": False, "errors": [f"unknown request {line!r}"]}
        )

    return answer


def serve(
    host: str,
    port: int,
    report: Callable[[], dict[str, object]],
    tick: Callable[[], None],
    tick_s: float,
) -> None:
    """Answer STATUS and INCR, and call `tick` every `tick_s` seconds, until SIGTERM."""
    # Init of a container has no default action for SIGTERM: without a handler it would be ignored.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    epoll = select.epoll()
    server = LineServer(epoll, tcp_listener(host, port), status_answer(report))
    while True:
        for fd, events in epoll.poll(tick_s):
            server.handle(fd, events)
        tick()


class LineServer:
    """A server that answers each line of a client with one line.

    A connection stays open as long as its client likes.
    """

    def __init__(
        self, epoll: select.epoll, listener: socket.socket, answer: Callable[[str], str]
    ) -> None:
        self._epoll = epoll
        self._answer = answer
        self._listener = listener
        self._clients: dict[int, socket.socket] = {}
        self._received: dict[int, bytes] = {}
        self._unsent: dict[int, bytes] = {}
        listener.setblocking(False)
        epoll.register(listener.fileno(), select.EPOLLIN)

    def handle(self, fd: int, events: int) -> bool:
        """Serve an epoll event, and return False if its fd is none of this server's."""
        if fd == self._listener.fileno():
            self._accept()
            return True
        if fd not in self._clients:
            return False
        try:
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._read(fd)
            if fd in self._clients:
                self._flush(fd)
        except BlockingIOError:
            pass
        except OSError:  # this client is gone; the workload goes on
            self._drop(fd)
        return True

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # the client gave up first
            return
        client.setblocking(False)
        fd = client.fileno()
        self._clients[fd], self._received[fd], self._unsent[fd] = client, b"", b""
        self._epoll.register(fd, select.EPOLLIN)

    def _read(self, fd: int) -> None:
        data = self._clients[fd].recv(MAX_LINE_BYTES)
        *lines, rest = (self._received[fd] + data).split(b"\n")
        self._received[fd] = rest
        for line in lines:
            self._unsent[fd] += (
                self._answer(line.decode("utf-8", "replace").strip()).encode() + b"\n"
            )
        if not data or len(rest) > MAX_LINE_BYTES or len(self._unsent[fd]) > MAX_UNSENT_BYTES:
            self._drop(fd)

    def _flush(self, fd: int) -> None:
        while self._unsent[fd]:
            try:
                sent = self._clients[fd].send(self._unsent[fd])
            except BlockingIOError:
                self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
                return
            self._unsent[fd] = self._unsent[fd][sent:]
        self._epoll.modify(fd, select.EPOLLIN)

    def _drop(self, fd: int) -> None:
        self._epoll.unregister(fd)
        self._clients.pop(fd).close()
        del self._received[fd], self._unsent[fd]

    def close(self) -> None:
        for fd in list(self._clients):
            self._drop(fd)
        self._epoll.unregister(self._listener.fileno())
        self._listener.close()
