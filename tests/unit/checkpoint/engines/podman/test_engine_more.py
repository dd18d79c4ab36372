"""checkpoint/engines/podman/engine.py over a podman and a crun that stand for the real ones."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines import left_behind
from checkpoint.engines.base import ROOTFS, Container, Tree
from checkpoint.engines.oci.crun import Crun
from checkpoint.engines.podman import engine
from checkpoint.engines.podman.engine import Podman as Engine
from checkpoint.engines.podman.incoming import IncomingPodmanContainer
from checkpoint.errors import CommandFailed, ContainerNotFound, ContainerNotRunning, DataInvalid
from checkpoint.host import cgroups
from tests.rig import until
from tests.unit.checkpoint.engines.podman.program import Podman
from tests.unit.checkpoint.engines.runtimes import ID, Runtime

VOLUME = {"Name": "data", "Driver": "local", "CreatedAt": "2024-01-01T00:00:00Z"}
LAYERS = ["sha256:1a"]


def container(**changes: Any) -> dict[str, Any]:
    """A container as `podman container inspect` describes it."""
    mount = {"Type": "volume", "Name": "data", "Driver": "local", "Destination": "/data"}
    return {
        "Id": ID,
        "Name": "box",
        "Pod": "",
        "OCIRuntime": "/usr/bin/crun",
        "Image": "ff",
        "ImageName": "localhost/redis",
        "Config": {"Tty": False, "Labels": None},
        "HostConfig": {"NetworkMode": "bridge", "LogConfig": {"Path": "/logs/ctr.log"}},
        "State": {"Status": "running", "ConmonPid": 0, "CgroupPath": "/box"},
        "Mounts": [{**mount, "Source": "/volumes/data"}],
        "GraphDriver": {
            "Name": "overlay",
            "Data": {"UpperDir": "/upper", "MergedDir": "/merged"},
        },
        "NetworkSettings": {"Networks": {"net": {}}},
        **changes,
    }


@pytest.fixture
def beneath(tmp_path: Path, podman: Podman, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """The crun beneath podman, with the container."""
    runtime = Runtime(tmp_path, "crun", tmp_path / "crun")
    monkeypatch.setitem(engine.BENEATH, "crun", lambda: Crun(runtime.root))
    monkeypatch.setattr(cgroups, "limits", lambda pid: {})
    runtime.has("status", {"external_descriptors": '["/dev/null"]'})
    podman.says("container inspect box", [container()])
    podman.says("network inspect net", [{"name": "net", "driver": "bridge"}])
    podman.says("volume inspect data", [VOLUME])
    podman.says("image inspect ff", [{"RootFS": {"Layers": LAYERS}}])
    return runtime


@pytest.fixture
def box(beneath: Runtime) -> Container:
    return Engine().inspect("box")


def test_a_running_container(box: Container) -> None:
    assert (box.id, box.name, box.pid) == (ID, "box", 4242)
    assert box.trees == (
        Tree(destination=ROOTFS, root=Path("/merged"), layer=Path("/upper")),
        Tree(destination="/data", root=Path("/volumes/data")),
    )
    assert box.log == Path("/logs/ctr.log")
    assert box.engine_network


def test_files_that_are_no_overlay_are_sent_whole(beneath: Runtime, podman: Podman) -> None:
    found = container(GraphDriver={"Name": "vfs", "Data": None}, Mounts=[])
    found["HostConfig"]["LogConfig"] = {}
    podman.says("container inspect box", [found])
    box = Engine().inspect("box")
    assert box.trees == (Tree(destination=ROOTFS, root=beneath.bundle / "rootfs"),)
    assert box.log is None


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"State": {"Status": "paused"}}, ContainerNotRunning, "container 'box' is paused"),
        ({"State": None}, DataInvalid, "podman's description of 'box'"),
        ({"Mounts": {}}, DataInvalid, "podman's description of 'box'"),
        ({"GraphDriver": {"Name": "overlay"}}, DataInvalid, "podman's description of 'box'"),
        ({"Id": "3d"}, ContainerNotFound, "crun knows no container named '3d'"),
    ],
)
def test_one_that_cannot_be_moved(
    beneath: Runtime, podman: Podman, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    podman.says("container inspect box", [container(**changes)])
    with pytest.raises(error, match=said):
        Engine().inspect("box")


def test_a_host_where_podman_has_never_run_is_not_asked(
    podman: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any command would make directories of podman's there."""
    assert Engine().exists("box")
    monkeypatch.setattr(engine, "TRACES", (tmp_path / "none",))
    before = podman.asked()
    assert not Engine().exists("box")
    assert podman.asked() == before


def test_what_the_source_tells_is_what_the_target_takes(box: Container, podman: Podman) -> None:
    told = Engine().describe(box)
    assert told["image"] == {"id": "ff", "name": "localhost/redis", "layers": LAYERS}
    assert (told["runtime"], told["cgroup"], told["log"]) == ("crun", "/box", "/logs/ctr.log")
    assert told["networks"].keys() == {"net"}
    assert told["volumes"] == {"/data": VOLUME}
    with contextlib.ExitStack() as undo:
        assert isinstance(Engine().arrival("box", told, undo), IncomingPodmanContainer)


def test_a_network_that_is_none(box: Container) -> None:
    """podman names one all the same."""
    host = {**box.engine_state["HostConfig"], "NetworkMode": "none"}
    box = replace(box, log=None, engine_state={**box.engine_state, "HostConfig": host})
    told = Engine().describe(box)
    assert (told["networks"], told["log"]) == ({}, None)


def test_a_checkpoint_is_the_runtimes(box: Container, beneath: Runtime, tmp_path: Path) -> None:
    assert Engine().checkpoint(box, tmp_path, dict(os.environ)).wait(20) == 0
    assert beneath.asked()[-1][0] == "checkpoint"


def test_an_image_is_podmans(box: Container, podman: Podman, tmp_path: Path) -> None:
    Engine().export_image(box, frozenset(), tmp_path)
    (asked,) = podman.asked("push")
    assert asked.endswith(f" ff dir:{tmp_path}")


def test_an_archive_that_podman_does_not_make(
    box: Container, podman: Podman, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    podman.says("container checkpoint*", errors="it has no CRIU", status=125)
    with pytest.raises(CommandFailed, match="it has no CRIU"):
        Engine().pack(box, tmp_path)
    (asked,) = podman.asked("container checkpoint")
    assert {"--leave-running", "--ignore-rootfs", "--ignore-volumes"} < set(asked.split())


# --- the end on the source -------------------------------------------------------------------------


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is called conmon."""
    program = tmp_path / "conmon"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "60"]) as process:
        name = Path(f"/proc/{process.pid}/comm")
        until(lambda: name.read_text() == "conmon\n", "its name, which comes late in execve(2)")
        yield process
        process.kill()


def watched_by(box: Container, pid: int) -> Container:
    state = {**box.engine_state["State"], "ConmonPid": pid}
    return replace(box, engine_state={**box.engine_state, "State": state})


def test_nobody_restarts_what_was_killed(box: Container, monitor: subprocess.Popen[bytes]) -> None:
    Engine().suspend_restart_policy(box)()
    assert monitor.poll() is None
    Engine().detach_monitor(watched_by(box, monitor.pid))
    assert monitor.wait(20) == -signal.SIGKILL
    Engine().detach_monitor(watched_by(box, monitor.pid))  # one that is gone is no error


def test_another_process_that_has_its_number_lives(box: Container) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        Engine().detach_monitor(watched_by(box, process.pid))
        assert process.poll() is None
        process.kill()


def test_an_end_is_recorded_although_podman_cannot_stop_it(box: Container, podman: Podman) -> None:
    podman.says("stop*", errors="conmon is gone", status=125)
    Engine().record_ended(box)
    assert podman.asked()[-2:] == [f"update --restart=no {ID}", f"stop --time=0 {ID}"]
    podman.says("update*", errors="database is locked", status=125)
    with pytest.raises(CommandFailed, match="database is locked"):
        Engine().record_ended(box)


def test_what_was_moved_away_is_removed_and_its_volume_noted(
    box: Container, podman: Podman
) -> None:
    Engine().remove_migrated(box, shared=False)
    assert podman.asked("rm") == [f"rm --force --ignore --volumes --time=0 {ID}"]
    assert left_behind.is_noted("podman", "data", VOLUME["CreatedAt"])
