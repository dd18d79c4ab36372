"""Fixtures of the tests of docker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.engines import left_behind
from checkpoint.engines.docker import api
from tests.unit.checkpoint.engines.docker.dockerd import Dockerd


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dockerd]:
    """Yield this host's docker, which has nothing yet. Records of volumes are the test's own."""
    docker = Dockerd(tmp_path)
    monkeypatch.setattr(api, "SOCKET", str(docker.socket))
    monkeypatch.setattr(left_behind, "RECORDS", tmp_path / "records")
    yield docker
    docker.close()
