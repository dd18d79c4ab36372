"""checkpoint/engines/podman/incoming.py on a target whose podman stands for the real one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines import left_behind
from checkpoint.engines.podman.incoming import IncomingPodmanContainer
from checkpoint.errors import DataInvalid, NameInUse
from checkpoint.host import cgroups
from tests.unit.checkpoint.engines.podman.program import Podman

ID, IMAGE = "1f2e" * 16, "ff" * 32
VOLUME = {"Name": "data", "Driver": "local"}


def description(**changes: Any) -> dict[str, Any]:
    """What the source tells of a container."""
    return {
        "id": ID,
        "runtime": "crun",
        "cgroup": "/box",
        "log": None,
        "image": {"id": IMAGE, "name": "redis", "layers": ["sha256:1a", "sha256:2b"]},
        "volumes": {},
        "networks": {},
        **changes,
    }


@pytest.fixture
def undo() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as undo:
        yield undo


def arriving(undo: contextlib.ExitStack, **changes: Any) -> IncomingPodmanContainer:
    return IncomingPodmanContainer("box", description(**changes), undo)


def test_a_runtime_that_is_not_there(
    podman: Podman, undo: contextlib.ExitStack, tmp_path: Path
) -> None:
    runtime = "no-such-runtime"
    said = [f"its container is run by {runtime}, which is not there"]
    assert arriving(undo, runtime=runtime).objections() == said
    (tmp_path / "bin" / runtime).symlink_to("/bin/true")
    assert arriving(undo, runtime=runtime).objections() == []


def test_layers_that_need_not_be_sent(podman: Podman, undo: contextlib.ExitStack) -> None:
    podman.lacks("image", IMAGE)
    assert arriving(undo).layers_there() == []
    podman.says("images*", "ee\n")
    podman.says("image inspect ee", [{"RootFS": {"Layers": ["sha256:1a", "sha256:9f"]}}])
    assert arriving(undo).layers_there() == ["sha256:1a"]
    podman.says(f"image exists {IMAGE}")
    podman.says(f"image inspect {IMAGE}", [{}])
    assert arriving(undo).layers_there() is None


def test_an_image_that_arrives(podman: Podman, undo: contextlib.ExitStack, tmp_path: Path) -> None:
    podman.says("pull*", f"{IMAGE}\n")
    arriving(undo).load_image(tmp_path)
    assert podman.asked("tag") == [f"tag {IMAGE} redis"]


def test_what_the_container_has_besides_is_made(
    podman: Podman, undo: contextlib.ExitStack, tmp_path: Path
) -> None:
    podman.lacks("volume", "data")
    described = {**VOLUME, "Mountpoint": str(tmp_path), "CreatedAt": "2024-01-01T00:00:00Z"}
    podman.says("volume inspect data", [described])
    made = arriving(undo, volumes={"/data": VOLUME})
    assert made.volumes() == ["data"]
    assert made.prepare(b"", shared=False) == {"/data": tmp_path}
    assert podman.asked("volume create") == ["volume create --driver local data"]
    left_behind.note("podman", "data", "2024-01-01T00:00:00Z")
    made.settle()
    assert not left_behind.is_noted("podman", "data", "2024-01-01T00:00:00Z")


@pytest.fixture
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the only cgroup hierarchy of this host is mounted."""
    monkeypatch.setattr(cgroups, "_mounts", lambda kind, option: [tmp_path] if option == "" else [])
    return tmp_path


def test_a_container_that_podman_restores(
    podman: Podman, undo: contextlib.ExitStack, tmp_path: Path, hierarchy: Path
) -> None:
    for name in ("box", ID):
        podman.lacks("container", name)
    made = arriving(undo)
    made.prepare(b"", shared=False)
    made.take_output(b"a line\n")
    made.start_restore(tmp_path, tmp_path, dict(os.environ)).wait(20)
    assert b"a line\n" in (tmp_path / "podman.tar").read_bytes()
    (asked,) = podman.asked("container restore")
    assert f"--import={tmp_path}/podman.tar" in asked.split()
    (hierarchy / "box/beneath").mkdir(parents=True)
    made.discard()
    assert podman.asked("rm") == [], "nobody has seen it restored"
    made.restore_held()
    made.discard()
    assert podman.asked("rm") == [f"rm --force --ignore --volumes --time=0 {ID}"]
    assert not (hierarchy / "box").exists()


def test_a_cgroup_that_was_there_stays(
    podman: Podman, undo: contextlib.ExitStack, tmp_path: Path, hierarchy: Path
) -> None:
    (hierarchy / "box").mkdir()
    for name in ("box", ID):
        podman.lacks("container", name)
    made = arriving(undo)
    made.prepare(b"", shared=False)
    made.start_restore(tmp_path, tmp_path, dict(os.environ)).wait(20)
    made.restore_held()
    made.discard()
    assert (hierarchy / "box").exists()


@pytest.mark.parametrize("taken", ["box", ID])
def test_a_name_that_was_taken_meanwhile(
    podman: Podman, undo: contextlib.ExitStack, tmp_path: Path, taken: str
) -> None:
    for name in {"box", ID} - {taken}:
        podman.lacks("container", name)
    with pytest.raises(NameInUse, match=f"a podman container named '{taken}' was started"):
        arriving(undo).start_restore(tmp_path, tmp_path, {})
    assert podman.asked("container restore") == []


@pytest.mark.parametrize("change", [{"id": "../x"}, {"image": {}}, {"networks": {"net": {}}}])
def test_a_description_that_is_none(undo: contextlib.ExitStack, change: dict[str, Any]) -> None:
    with pytest.raises(DataInvalid):
        arriving(undo, **change)
