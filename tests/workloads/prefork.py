"""A server that forks its workers before it serves, as many do.

The workers share what the server had in memory by then. STATUS has every worker look at each byte
that it shares, and at a page of its own, and answer.
"""

import argparse
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from tests.workloads.status import serve
else:
    from status import serve

TICK_S = 0.05
ANSWER_S = 60.0
OWN_BYTES = 4096


class Worker:
    """A forked child and the socket on which it is asked."""

    def __init__(self, number: int, shared: bytearray, right: bytes) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(ANSWER_S)
        self._pid = os.fork()
        if not self._pid:
            try:
                work(theirs, number, shared, right)
            finally:
                os._exit(1)
        theirs.close()

    def ask(self) -> None:
        self._socket.send(b"?")

    def answer(self) -> bool:
        return self._socket.recv(1) == b"+"


def work(peer: socket.socket, number: int, shared: bytearray, right: bytes) -> None:
    """Answer whether memory is as it was, until the server is gone, and never return."""
    own = bytearray(number.to_bytes(4, "big") * (OWN_BYTES // 4))
    while peer.recv(1):
        intact = shared == right and own == number.to_bytes(4, "big") * (OWN_BYTES // 4)
        peer.send(b"+" if intact else b"-")
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="fork workers that share memory, verify it on STATUS"
    )
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - inside a container
    parser.add_argument("--port", type=int, default=7108)
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument(
        "--shared-mib", type=int, default=1, help="that every worker shares with the server"
    )
    args = parser.parse_args()
    right = os.urandom(args.shared_mib << 20)
    shared = bytearray(right)
    workers = [Worker(number, shared, right) for number in range(args.workers)]

    def report() -> dict[str, object]:
        for worker in workers:
            worker.ask()
        answers = [worker.answer() for worker in workers]
        return {"ok": all(answers), "answers": sum(answers), "errors": []}

    serve(args.host, args.port, report, lambda: None, TICK_S)


if __name__ == "__main__":
    main()
