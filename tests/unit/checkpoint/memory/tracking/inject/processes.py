"""What a test asks of a process into which the injector goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.unit.helpers.obedient import Child

#: A test that would hang fails after this time.
LIMIT_S = 20.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_traced(pid: int) -> bool:
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def untouched(child: Child) -> bool:
    """Return whether a process is traced by nobody and goes on."""
    return not is_traced(child.pid) and child.do("answer = 6 * 7") == 42
