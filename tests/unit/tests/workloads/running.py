"""Workloads that run, and clients of them."""

import contextlib
import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

from tests.unit.helpers.checkout import ROOT

WORKLOADS = ROOT / "tests/workloads"
LIMIT_S = 15  # for what should take well under a second
Status = dict[str, Any]


@contextlib.contextmanager
def running(script: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Run a workload for the length of the block."""
    command = [sys.executable, "-B", str(WORKLOADS / script), *args]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def read_line(stream: IO[str] | None) -> str:
    assert stream is not None
    assert select.select([stream], [], [], LIMIT_S)[0], "no output in time"
    return stream.readline()


def tell(process: subprocess.Popen[str], line: str) -> Status:
    """Send a line to a workload's input, and return its reply."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    reply: Status = json.loads(read_line(process.stdout))
    return reply


class Asker:
    """A client of a workload's line server, on one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rw")

    def ask(self, line: str) -> str:
        self._file.write(line + "\n")
        self._file.flush()
        return self._file.readline().strip()

    def status(self) -> Status:
        reply: Status = json.loads(self.ask("STATUS"))
        return reply

    def until(self, condition: Callable[[Status], bool]) -> Status:
        """Ask until the condition holds; a workload offers no way to be told."""
        deadline = time.monotonic() + LIMIT_S
        while not condition(status := self.status()):
            assert time.monotonic() < deadline, f"not in time, last: {status}"
            time.sleep(0.01)
        return status

    def close(self) -> None:
        self._file.close()
        self._sock.close()


@contextlib.contextmanager
def serving(script: str, *args: str) -> Iterator[Asker]:
    """Run a workload on a port of its own, and yield a client of it."""
    with running(script, "--host", "127.0.0.1", "--port", "0", *args) as process:
        word, port = read_line(process.stdout).split()
        assert word == "PORT"
        sock = socket.create_connection(("127.0.0.1", int(port)), timeout=LIMIT_S)
        with contextlib.closing(Asker(sock)) as asker:
            yield asker
