"""Fixtures of the unit tests."""

import ctypes
from collections.abc import Iterator

import pytest

from checkpoint.host.kernel import PR_SET_DUMPABLE
from tests.unit.obedient import Child


@pytest.fixture(autouse=True)
def unlocked() -> Iterator[None]:
    """Undo what a command does to its own process, which in a test is this one (checkpoint/host/own_process.py)."""
    yield
    libc = ctypes.CDLL(None)
    libc.munlockall()
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


@pytest.fixture
def child() -> Iterator[Child]:
    """A process that does what it is told; it ends with the test."""
    child = Child()
    yield child
    child.end()
