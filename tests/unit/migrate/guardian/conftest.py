"""Fixtures of the tests of the guardian."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.criu import rescue
from checkpoint.host import lock, ram_directory
from migrate import leftovers
from migrate.guardian import handle, takeover
from tests.unit.helpers.apart import Apart
from tests.unit.migrate.guardian.scene import Made, Scene


@pytest.fixture
def init() -> Iterator[Apart]:
    """Yield a process that lives until it is killed."""
    found = Apart(signal.pause)
    yield found
    found.close()


@pytest.fixture
def scene(tmp_path: Path, init: Apart, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Yield a migration whose container's init is `init`, on a host of its own.

    Nothing waits longer than it must.
    """
    monkeypatch.setattr(ram_directory, "RUN", tmp_path / "run")
    monkeypatch.setattr(lock, "RUN", tmp_path / "run")
    monkeypatch.setattr(lock, "DIRECTORY", tmp_path / "run/locks")
    monkeypatch.setattr(leftovers, "OUTGOING_IMAGES", tmp_path / "outgoing")
    monkeypatch.setattr(leftovers, "INCOMING_IMAGES", tmp_path / "images")
    monkeypatch.setattr(rescue, "unlock", lambda _: False)
    monkeypatch.setattr(handle, "GRACE_S", 0.0)
    monkeypatch.setattr(takeover, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(takeover, "LONGEST_PAUSE_S", 0.002)
    found = Scene(tmp_path, init.pid)
    yield found
    found.close()


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)
