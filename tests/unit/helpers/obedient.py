"""A process that does what a test tells it, and whose memory the test knows."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from checkpoint.host.ready import ready
from checkpoint.memory import ranges
from checkpoint.memory.ranges import Range
from checkpoint.memory.tracking.write_protection import PAGE_SIZE

PAGES = 300

PROGRAM = Path(__file__).parent / "programs/obedient.py"


class Child:
    """A process of programs/obedient.py."""

    def __init__(self) -> None:
        argv = [sys.executable, "-IS", str(PROGRAM), str(PAGES), str(PAGE_SIZE)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._process.pid
        self.address = self.answer()

    def answer(self) -> Any:
        """Return the answer to the code that was sent first."""
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())

    def is_ready(self, timeout_s: float) -> bool:
        """Return whether an answer comes within `timeout_s` seconds."""
        assert self._process.stdout
        return bool(ready(self._process.stdout.fileno(), timeout_s=timeout_s))

    def send(self, code: str) -> None:
        """Send code to be run."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(code).encode() + b"\n")
        self._process.stdin.flush()

    def do(self, code: str) -> Any:
        """Have code run, and return its answer."""
        self.send(code)
        return self.answer()

    @property
    def buffer(self) -> list[Range]:
        return [(self.address, self.address + PAGES * PAGE_SIZE)]

    def pages(self, found: list[Range]) -> list[int]:
        """Return the numbers of those pages of the buffer that are in ranges."""
        common = ranges.intersection(ranges.union(found, []), self.buffer)
        return [
            (page - self.address) // PAGE_SIZE
            for start, end in common
            for page in range(start, end, PAGE_SIZE)
        ]

    def end(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
