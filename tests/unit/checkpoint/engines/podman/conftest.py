"""Fixtures of the tests of podman."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint.engines import left_behind
from checkpoint.engines.podman import engine
from tests.unit.checkpoint.engines.podman.program import Podman


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Podman:
    """Return this host's podman. Records of volumes are the test's own."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(engine, "TRACES", (tmp_path,))
    monkeypatch.setattr(left_behind, "RECORDS", tmp_path / "records")
    return Podman(tmp_path)
