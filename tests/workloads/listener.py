"""Idle listeners, which do nothing but answer `PING <x>` with `PONG <x> <pings served>`.

An idle process has no dirty memory and no packets in flight. What must survive a move is its
listening sockets (one TCP, one unix), their backlog, connections that have said nothing for long,
and the count of pings.
"""

import argparse
import select
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from tests.workloads.status import LineServer, tcp_listener
else:
    from status import LineServer, tcp_listener


def unix_listener(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(16)
    return listener


def main() -> int:
    parser = argparse.ArgumentParser(description="idle TCP and unix listeners that answer PING <x>")
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - inside a container
    parser.add_argument("--port", type=int, default=7103)
    parser.add_argument("--unix", type=Path, default=Path("/tmp/listener.sock"))  # noqa: S108
    args = parser.parse_args()
    served = 0

    def answer(line: str) -> str:
        nonlocal served
        verb, _, rest = line.partition(" ")
        if verb != "PING":
            return f"ERROR unknown request {verb!r}"
        served += 1
        return f"PONG {rest} {served}"

    # Init of a container has no default action for SIGTERM: without a handler it would be ignored.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    unix = unix_listener(args.unix)  # before PORT is printed: who reads it may connect to both
    epoll = select.epoll()
    servers = [
        LineServer(epoll, listener, answer)
        for listener in (tcp_listener(args.host, args.port), unix)
    ]
    while True:
        for fd, events in epoll.poll():
            any(server.handle(fd, events) for server in servers)


if __name__ == "__main__":
    sys.exit(main())
