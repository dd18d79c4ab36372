"""A docker for the tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.engines import left_behind
from checkpoint.engines.docker import api
from tests.unit.checkpoint.engines.docker.dockerd import Dockerd


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dockerd]:
    """This host's docker, which has nothing, and records of what moves have left."""
    docker = Dockerd(tmp_path)
    monkeypatch.setattr(api, "SOCKET", str(docker.socket))
    monkeypatch.setattr(left_behind, "RECORDS", tmp_path / "records")
    yield docker
    docker.close()
