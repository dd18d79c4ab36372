"""Clients of a workload, which run in the switch of its rig: programs of tests/workloads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tests.rig.wait import until

#: The programs on this machine, whose files the switch has.
PROGRAMS = Path(__file__).resolve().parents[1] / "workloads"


class StartsPrograms(Protocol):
    """A place that reaches the workload, as Switch does."""

    def popen(self, argv: list[str], *, stdin: int, stdout: int) -> subprocess.Popen[str]:
        """Start a program (Place.popen)."""


class Client:
    """A client that asks every millisecond over one TCP connection, which is never made again.

    The program is workloads/redis_client.py, or one like it. A test uses the client as a context:
    it runs until the end of the block.
    """

    def __init__(
        self, place: StartsPrograms, address: str, port: int, program: str = "redis_client.py"
    ) -> None:
        argv = [*program_command(program), address, str(port)]
        self._process = place.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Client:
        """Wait until the client is connected."""
        self.mark("connected")
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the client if it still runs."""
        self._process.kill()
        self._process.communicate()

    def mark(self, name: str) -> Mapping[str, Any]:
        """End the window so far, and return its figures: count, worst_gap_ms, contiguous, ..."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"MARK {name}\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def goes_on(self, replies: int = 10) -> None:
        """Wait until the client has got so many more replies."""
        before = self.mark("now")["last"] or 0
        until(
            lambda: (self.mark("later")["last"] or 0) >= before + replies, "replies to the client"
        )

    def finish(self) -> Mapping[str, Any]:
        """Stop the client, and return the figures of its whole run: also error and reconnects."""
        output, _ = self._process.communicate(timeout=30)
        return dict(json.loads(output))


def program_command(program: str) -> list[str]:
    """Return the beginning of the command that runs a program of tests/workloads in the switch."""
    return [sys.executable, "-B", str(PROGRAMS / program)]
