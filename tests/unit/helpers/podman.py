"""A podman of shell script, and a container that arrives at it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.podman.incoming import IncomingPodmanContainer
from checkpoint.undo import Undo

ID = "1f" * 32
PROGRAM = Path(__file__).parent / "programs/podman"
DESCRIPTION: dict[str, Any] = {
    "id": ID,
    "runtime": "crun",
    "cgroup": "",
    "restart": {"Name": "always", "MaximumRetryCount": 0},
    "image": {"id": "x", "name": "x", "layers": []},
    "networks": {},
    "volumes": {},
}


def fake_podman(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a podman on PATH, and return the log that it has of the container."""
    path = directory / "graph/vfs-containers" / ID / "userdata/ctr.log"
    path.parent.mkdir(parents=True)
    (directory / "bin").mkdir()
    shutil.copy(PROGRAM, directory / "bin/podman")
    monkeypatch.setenv("FAKE_PODMAN_ROOT", str(directory / "graph"))
    monkeypatch.setenv("FAKE_PODMAN_LOG", str(path))
    monkeypatch.setenv("PATH", f"{directory / 'bin'}:{os.environ['PATH']}")
    return path


@contextlib.contextmanager
def arriving(named: Path) -> Iterator[IncomingPodmanContainer]:
    """Yield the prepared arrival of a container, whose log on the source is at `named`."""
    with Undo() as undo:
        made = IncomingPodmanContainer("x", {**DESCRIPTION, "log": str(named)}, undo)
        made.prepare(b"", shared=False)
        yield made


def restore(arrival: IncomingPodmanContainer, directory: Path) -> None:
    """Have podman restore the container, and wait until it has."""
    assert arrival.start_restore(directory, directory, os.environ).wait() == 0
