"""Programs of tests/workloads used as clients, from the switch of a rig."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.rig import Switch, until

WORKLOADS = Path(__file__).parent / "workloads"
REDIS_PORT = 6379
EXCLUDED = "client:*"


class RedisClient:
    """The 1 ms client on one TCP connection (workloads/redis_client.py, or one like it). Use as a context."""

    def __init__(
        self, switch: Switch, address: str, port: int = REDIS_PORT, program: str = "redis_client.py"
    ) -> None:
        argv = [sys.executable, "-B", str(WORKLOADS / program), address, str(port)]
        self._process = switch.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> RedisClient:
        self.mark("connected")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def mark(self, name: str) -> Mapping[str, Any]:
        """End the window so far; its figures: count, worst_gap_ms, contiguous ..."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"MARK {name}\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def finish(self) -> Mapping[str, Any]:
        """Stop it; the figures of the whole run."""
        output, _ = self._process.communicate(timeout=30)
        return dict(json.loads(output))


def redis_data(switch: Switch, address: str, *words: str) -> Mapping[str, Any]:
    """Run workloads/redis_data.py (fill --mib N, digest)."""
    argv = [
        sys.executable,
        "-B",
        str(WORKLOADS / "redis_data.py"),
        address,
        str(REDIS_PORT),
        *words,
    ]
    return dict(json.loads(switch.run(argv, timeout=300).stdout))


def redis_digest(switch: Switch, address: str) -> Mapping[str, Any]:
    """All keys but the client's, and a digest over them and their values."""
    return redis_data(switch, address, "digest", "--exclude", EXCLUDED)


def ask(switch: Switch, address: str, port: int, line: str) -> str:
    """One line to a workload over TCP, on a connection of its own; "" while nobody listens."""
    script = (
        "import socket, sys\n"
        "try: s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)\n"
        "except OSError: sys.exit()\n"
        "s.sendall(sys.argv[3].encode() + b'\\n'); print(s.makefile().readline(), end='')\n"
    )
    return switch.run([sys.executable, "-c", script, address, str(port), line]).stdout.strip()


def status(switch: Switch, address: str, port: int) -> Mapping[str, Any]:
    """A workload's own verdict on itself; waits until it answers."""
    return dict(
        json.loads(
            until(lambda: ask(switch, address, port, "STATUS"), f"{address}:{port} to answer")
        )
    )
