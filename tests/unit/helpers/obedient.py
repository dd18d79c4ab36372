"""A process that does what a test tells it, and whose memory the test knows."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import Any

from checkpoint.memory import ranges
from checkpoint.memory.ranges import Range
from checkpoint.memory.tracking.write_protection import PAGE_SIZE

PAGES = 300

#: Runs each line it is sent and answers with a line of JSON: the value of `answer`.
CHILD = f"""
import ctypes, json, mmap, os, select, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
buffer = mmap.mmap(-1, {PAGES * PAGE_SIZE}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
def fill(page, value):
    buffer[page * {PAGE_SIZE}:(page + 1) * {PAGE_SIZE}] = bytes([value]) * {PAGE_SIZE}
for page in range({PAGES}):
    fill(page, page % 250 + 1)
print(json.dumps(address), flush=True)
for line in sys.stdin:
    answer = None
    exec(json.loads(line))
    print(json.dumps(answer), flush=True)
"""


class Child:
    """A python that does what it is told; its buffer is known."""

    def __init__(self) -> None:
        argv = [sys.executable, "-IS", "-c", CHILD]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self._process.pid
        self.address = self.answer()

    def answer(self) -> Any:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())

    def send(self, code: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(code).encode() + b"\n")
        self._process.stdin.flush()

    def do(self, code: str) -> Any:
        self.send(code)
        return self.answer()

    @property
    def buffer(self) -> list[Range]:
        return [(self.address, self.address + PAGES * PAGE_SIZE)]

    def pages(self, found: list[Range]) -> list[int]:
        """Numbers of the buffer's pages that are in ranges."""
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
