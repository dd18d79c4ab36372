"""A podman of shell script, and a container that arrives at it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.podman.incoming import IncomingPodmanContainer

ID = "1f" * 32
#: A podman that has no container, tells of its storage, and restores no more than a log.
PODMAN = """#!/bin/sh
case "$*" in
*exists*) exit 1 ;;
info*) echo '{{"store": {{"graphRoot": "{root}", "graphDriverName": "vfs"}}}}' ;;
*) for word; do
    case "$word" in --import=*) tar -xOf "${{word#*=}}" ctr.log > "{log}" ;; esac
done ;;
esac
"""
DESCRIPTION: dict[str, Any] = {
    "id": ID,
    "runtime": "crun",
    "cgroup": "",
    "image": {"id": "x", "name": "x", "layers": []},
    "networks": {},
    "volumes": {},
}


def fake_podman(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a podman on PATH, and return the log that it has of the container."""
    path = directory / "graph/vfs-containers" / ID / "userdata/ctr.log"
    path.parent.mkdir(parents=True)
    (directory / "bin").mkdir()
    program = directory / "bin/podman"
    program.write_text(PODMAN.format(root=directory / "graph", log=path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return path


@contextlib.contextmanager
def arriving(named: Path) -> Iterator[IncomingPodmanContainer]:
    """Yield the prepared arrival of a container, whose log on the source is at `named`."""
    with contextlib.ExitStack() as undo:
        made = IncomingPodmanContainer("x", {**DESCRIPTION, "log": str(named)}, undo)
        made.prepare(b"", shared=False)
        yield made


def restore(arrival: IncomingPodmanContainer, directory: Path) -> None:
    """Have podman restore the container, and wait until it has."""
    assert arrival.start_restore(directory, directory, os.environ).wait() == 0
