"""Fixtures of the unit tests."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.engines.docker import api
from checkpoint.engines.podman import engine as podman
from checkpoint.host import lock
from checkpoint.host.kernel import PR_SET_DUMPABLE
from migrate.journal import book
from tests.unit.helpers.obedient import Child


@pytest.fixture(autouse=True)
def unlocked() -> Iterator[None]:
    """Undo what a command does to its own process, which in a test is this one.

    checkpoint/host/own_process.py does it.
    """
    yield
    libc = ctypes.CDLL(None)
    libc.munlockall()
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


@pytest.fixture(autouse=True)
def journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the journals of migrations in a directory of the test, and return its path."""
    monkeypatch.setattr(book, "DIRECTORY", tmp_path / "journal")
    monkeypatch.setattr(book, "RAM", tmp_path / "ram" / "journal")
    return tmp_path / "journal"


@pytest.fixture
def child() -> Iterator[Child]:
    """Yield a process that does what it is told, and ends with the test."""
    child = Child()
    yield child
    child.end()


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory that is a tmpfs of 64 MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture
def no_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this host one without engines and without locks, on which the test is root.

    tests/unit/helpers/engines.py puts engines on it.
    """
    monkeypatch.setattr(api, "SOCKET", str(tmp_path / "docker.sock"))
    monkeypatch.setattr(api, "find_program", lambda _: None)
    monkeypatch.setattr(podman, "TRACES", (tmp_path,))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(lock, "DIRECTORY", tmp_path / "locks")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
