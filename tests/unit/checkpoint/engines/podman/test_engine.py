"""Tests of checkpoint/engines/podman/engine.py: which containers podman has and can give away."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines import left_behind
from checkpoint.engines.base import ROOTFS, Container, Tree
from checkpoint.engines.oci.crun import Crun
from checkpoint.engines.podman import engine, incoming, store
from checkpoint.engines.podman import engine as podman
from checkpoint.engines.podman.engine import (
    MOST_PACKED_BYTES,
    Monitor,
    Podman,
    without_contents,
)
from checkpoint.engines.podman.incoming import IncomingPodmanContainer
from checkpoint.errors import (
    CommandFailed,
    ContainerNotFound,
    ContainerNotRunning,
    DataInvalid,
    EngineRefused,
    ImageError,
)
from checkpoint.host import cgroups
from checkpoint.host.processes import state_of
from checkpoint.undo import Made, Undo, read
from tests.fuzz.parser import bounded_memory
from tests.rig import until
from tests.unit.checkpoint.engines.archive_bytes import DAMAGES, file_of, pack, unpack
from tests.unit.checkpoint.engines.descriptions import changed
from tests.unit.checkpoint.engines.podman.program import Podman as Program
from tests.unit.checkpoint.engines.runtimes import ID, Runtime
from tests.unit.helpers.engines import podman_that

pytestmark = pytest.mark.usefixtures("no_engines")


def test_a_podman_that_says_no_has_no_container(tmp_path: Path) -> None:
    podman_that(tmp_path, "exit 1")
    assert not Podman().exists("web")
    with pytest.raises(ContainerNotFound):
        Podman().inspect("web")


def test_a_podman_that_is_not_installed_has_no_container() -> None:
    assert not Podman().exists("web")


def test_a_podman_that_fails_cannot_be_asked(tmp_path: Path) -> None:
    podman_that(tmp_path, "echo 'Error: database is locked' >&2", "exit 125")
    with pytest.raises(EngineRefused, match="database is locked"):
        store.has_container("web")
    with pytest.raises(EngineRefused, match="database is locked"):
        Podman().inspect("web")


def test_a_podman_that_cannot_describe_its_container_is_an_error(tmp_path: Path) -> None:
    podman_that(
        tmp_path, '[ "$2" = exists ] && exit 0', "echo 'Error: layer not known' >&2", "exit 125"
    )
    with pytest.raises(CommandFailed, match="layer not known"):
        Podman().inspect("web")


PODMAN: dict[str, Any] = {
    "Name": "box",
    "Pod": "",
    "OCIRuntime": "/usr/bin/crun",
    "Config": {"Tty": False},
    "HostConfig": {"NetworkMode": "bridge"},
}


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ("HostConfig.NetworkMode", "none"),
        ("OCIRuntime", "runc"),
        ("OCIRuntime", "/opt/sbin/runc"),
    ],
)
def test_a_container_of_crun_or_runc_can_be_moved(at: str, value: str) -> None:
    assert podman.unmovable(PODMAN) is None
    assert podman.unmovable(changed(PODMAN, at, value)) is None


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        ("Pod", "4" * 64, "in a pod"),
        ("Config.Tty", True, "has a terminal"),
        ("HostConfig.NetworkMode", "host", "the network mode 'host'"),
        ("HostConfig.NetworkMode", "container:" + "5" * 64, "the network mode 'container:5"),
        ("HostConfig.NetworkMode", "pasta", "the network mode 'pasta'"),
        ("OCIRuntime", "/usr/bin/runsc", "run by /usr/bin/runsc"),
        ("Config.Labels", {"PODMAN_SYSTEMD_UNIT": "web.service"}, "the systemd unit 'web.service'"),
    ],
)
def test_a_container_that_cannot_be_moved_says_why(at: str, value: object, said: str) -> None:
    why = podman.unmovable(changed(PODMAN, at, value))
    assert why is not None
    assert why.startswith("container 'box' ")
    assert said in why


def test_an_archive_loses_its_contents_and_keeps_its_descriptions(tmp_path: Path) -> None:
    kept: dict[str, bytes | None] = {
        "config.dump": b"{}",
        "checkpoint": None,
        "artifacts/x": bytes(range(256)) * 9,
    }
    left_out: dict[str, bytes | None] = {
        "ctr.log": b"old\n",
        "devshm-checkpoint.tar": b"m",
        "rootfs-diff.tar": bytes(20_000),
        "deleted.files": b"[]",
    }
    archive = without_contents(file_of(tmp_path, pack({**left_out, **kept})))
    assert unpack(archive) == {**kept, "checkpoint/inventory.img": b""}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        described = {name: (tar.getmember(name).mode, tar.getmember(name).mtime) for name in kept}
    assert described == dict.fromkeys(kept, (0o751, 1_700_000_000))


def test_an_archive_has_no_restart_policy(tmp_path: Path) -> None:
    """podman on the target must not start what is not its own yet; it gets the policy later."""
    config = {"name": "web", "restart_policy": "always", "restart_retries": 3, "stopTimeout": 10}
    packed = pack({"config.dump": json.dumps(config).encode()})
    found = unpack(without_contents(file_of(tmp_path, packed)))
    assert json.loads(found["config.dump"] or b"") == {"name": "web", "stopTimeout": 10}
    with pytest.raises(ImageError, match=r"config.dump of podman's archive is damaged"):
        without_contents(file_of(tmp_path, pack({"config.dump": b"{}{}"})))


def test_links_in_an_archive_are_kept(tmp_path: Path) -> None:
    written = io.BytesIO(pack({"config.dump": b"{}"}))
    with tarfile.open(fileobj=written, mode="a") as tar:
        entry = tarfile.TarInfo("network.status")
        entry.type, entry.linkname = tarfile.SYMTYPE, "config.dump"
        tar.addfile(entry)
    with tarfile.open(
        fileobj=io.BytesIO(without_contents(file_of(tmp_path, written.getvalue())))
    ) as tar:
        found = tar.getmember("network.status")
        assert (found.issym(), found.linkname) == (True, "config.dump")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_archive_is_refused_or_stays_small(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    data = pack({"config.dump": b'{"name": "' + b"x" * 600 + b'"}'})
    with contextlib.suppress(ImageError):
        assert len(without_contents(file_of(tmp_path, damage(data)))) < len(data) + 20_000


def test_an_archive_of_more_than_descriptions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as tar, (tmp_path / "large").open("wb+") as large:
        large.truncate(MOST_PACKED_BYTES)
        for name in ("artifacts/x", "artifacts/y"):
            large.seek(0)
            tar.addfile(tar.gettarinfo(tmp_path / "large", name), large)
    with pytest.raises(ImageError, match="artifacts/"):
        without_contents(path)


def test_an_archive_is_not_taken_for_a_compressed_one(tmp_path: Path) -> None:
    """In the old format of LZMA these 463 bytes would begin with a dictionary of 4 GiB."""
    with bounded_memory(), pytest.raises(ImageError):
        without_contents(file_of(tmp_path, (b"\x63" + b"\xff" * 104).ljust(463, b"\0")))


VOLUME = {"Name": "data", "Driver": "local", "CreatedAt": "2024-01-01T00:00:00Z"}
LAYERS = ["sha256:1a"]


def container(**changes: Any) -> dict[str, Any]:
    """Return a container as `podman container inspect` describes it."""
    mount = {"Type": "volume", "Name": "data", "Driver": "local", "Destination": "/data"}
    return {
        "Id": ID,
        "Name": "box",
        "Pod": "",
        "OCIRuntime": "/usr/bin/crun",
        "Image": "ff",
        "ImageName": "localhost/redis",
        "Config": {"Tty": False, "Labels": None},
        "HostConfig": {
            "NetworkMode": "bridge",
            "LogConfig": {"Path": "/logs/ctr.log"},
            "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
        },
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
def beneath(tmp_path: Path, podman: Program, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """Return the crun beneath podman, which has the container."""
    runtime = Runtime(tmp_path, "crun", tmp_path / "crun")
    monkeypatch.setitem(incoming.BENEATH, "crun", lambda: Crun(runtime.root))
    monkeypatch.setattr(cgroups, "limits", lambda pid: {})
    runtime.has("status", {"external_descriptors": '["/dev/null"]'})
    podman.says("container inspect box", [container()])
    podman.says("network inspect net", [{"name": "net", "driver": "bridge"}])
    podman.says("volume inspect data", [VOLUME])
    podman.says("image inspect ff", [{"RootFS": {"Layers": LAYERS}}])
    return runtime


@pytest.fixture
def box(beneath: Runtime) -> Container:
    return Podman().inspect("box")


def test_a_running_container_is_described(box: Container) -> None:
    assert (box.id, box.name, box.pid) == (ID, "box", 4242)
    assert box.trees == (
        Tree(destination=ROOTFS, root=Path("/merged"), layer=Path("/upper")),
        Tree(destination="/data", root=Path("/volumes/data")),
    )
    assert box.log == Path("/logs/ctr.log")
    assert box.engine_network


def test_files_that_are_no_overlay_are_sent_whole(beneath: Runtime, podman: Program) -> None:
    found = container(GraphDriver={"Name": "vfs", "Data": None}, Mounts=[])
    found["HostConfig"]["LogConfig"] = {}
    podman.says("container inspect box", [found])
    box = Podman().inspect("box")
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
def test_a_container_that_cannot_be_described_is_an_error(
    beneath: Runtime, podman: Program, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    podman.says("container inspect box", [container(**changes)])
    with pytest.raises(error, match=said):
        Podman().inspect("box")


def test_a_host_where_podman_has_never_run_is_not_asked(
    podman: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any command of podman's would make directories of podman's there."""
    assert Podman().exists("box")
    monkeypatch.setattr(engine, "TRACES", (tmp_path / "none",))
    before = podman.asked()
    assert not Podman().exists("box")
    assert podman.asked() == before


def test_the_target_takes_the_description_of_the_source(box: Container, podman: Program) -> None:
    told = Podman().describe(box)
    assert told["image"] == {"id": "ff", "name": "localhost/redis", "layers": LAYERS}
    assert (told["runtime"], told["cgroup"], told["log"]) == ("crun", "/box", "/logs/ctr.log")
    assert told["networks"].keys() == {"net"}
    assert told["volumes"] == {"/data": VOLUME}
    with Undo() as undo:
        assert isinstance(Podman().arrival("box", told, undo), IncomingPodmanContainer)


def test_a_container_without_a_network_names_none(box: Container) -> None:
    """podman names a network for such a container all the same."""
    host = {**box.engine_state["HostConfig"], "NetworkMode": "none"}
    box = replace(box, log=None, engine_state={**box.engine_state, "HostConfig": host})
    told = Podman().describe(box)
    assert (told["networks"], told["log"]) == ({}, None)


def test_the_runtime_makes_the_checkpoint(box: Container, beneath: Runtime, tmp_path: Path) -> None:
    assert Podman().checkpoint(box, tmp_path, dict(os.environ)).wait(20) == 0
    assert beneath.asked()[-1][0] == "checkpoint"


def test_podman_writes_the_image(box: Container, podman: Program, tmp_path: Path) -> None:
    Podman().export_image(box, frozenset(), tmp_path)
    (asked,) = podman.asked("push")
    assert asked.endswith(f" ff dir:{tmp_path}")


def test_an_archive_that_podman_does_not_make_is_an_error(
    box: Container, podman: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    podman.says("container checkpoint*", errors="it has no CRIU", status=125)
    with pytest.raises(CommandFailed, match="it has no CRIU"):
        Podman().pack(box, tmp_path)
    (asked,) = podman.asked("container checkpoint")
    assert {"--leave-running", "--ignore-rootfs", "--ignore-volumes"} < set(asked.split())


# --- the end on the source -----------------------------------------------------------------------


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that is called conmon."""
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


def test_nobody_restarts_what_was_killed(
    box: Container, monitor: subprocess.Popen[bytes], podman: Program
) -> None:
    podman.says("container inspect *", [{"State": {"Pid": os.getpid(), "Status": "running"}}])
    with Undo() as undo:
        Podman().suspend_restart_policy(box, undo)
        assert podman.asked("update") == [f"update --restart=no {ID}"]
    assert podman.asked("update")[1:] == [f"update --restart=always {ID}"]
    assert monitor.poll() is None
    watched = watched_by(box, monitor.pid)
    Podman().pause_monitor(watched, Undo())
    until(lambda: state_of(monitor.pid) == "T", "a stop")
    Podman().end_monitor(watched)
    assert monitor.wait(20) == -signal.SIGKILL
    Podman().pause_monitor(watched, Undo())  # one that is gone is no error
    Podman().end_monitor(watched)


def test_a_monitor_that_was_paused_goes_on(
    box: Container, monitor: subprocess.Popen[bytes]
) -> None:
    things: list[Made] = []
    with Undo(lambda thing, _: things.append(thing)) as undo:
        Podman().pause_monitor(watched_by(box, monitor.pid), undo)
        until(lambda: state_of(monitor.pid) == "T", "a stop")
    until(lambda: state_of(monitor.pid) == "S", "the monitor to go on")
    [thing] = things
    assert read(json.loads(json.dumps(thing.plain()))) == thing


def test_another_process_that_has_its_number_lives(box: Container) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        watched = watched_by(box, process.pid)
        Podman().pause_monitor(watched, Undo())
        Podman().end_monitor(watched)
        Monitor(pid=process.pid, start_ticks=1).signal(signal.SIGKILL)
        assert process.poll() is None
        process.kill()


def test_an_end_is_recorded_although_podman_cannot_stop_it(box: Container, podman: Program) -> None:
    podman.says("stop*", errors="conmon is gone", status=125)
    Podman().record_ended(box)
    assert podman.asked()[-1:] == [f"stop --time=0 {ID}"]


def test_what_was_moved_away_is_removed_and_its_volume_noted(
    box: Container, podman: Program
) -> None:
    podman.says("container inspect *", [{"State": {"Pid": 0}}])
    for thing in Podman().remaining(box, shared=False):
        thing.remove()
    assert podman.asked("rm") == [f"rm --force --ignore --volumes --time=0 {ID}"]
    assert left_behind.is_noted("podman", "data", VOLUME["CreatedAt"])
