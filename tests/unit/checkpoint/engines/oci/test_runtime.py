"""Tests of checkpoint/engines/oci/runtime.py, with programs that stand for runc and crun."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.base import MARKER, ROOTFS, Tree
from checkpoint.engines.oci.bundle import IncomingBundle
from checkpoint.engines.oci.crun import Crun
from checkpoint.engines.oci.runc import Runc
from checkpoint.engines.oci.runtime import OciRuntime
from checkpoint.errors import CommandFailed, ContainerNotFound, ContainerNotRunning, DataInvalid
from checkpoint.host import cgroups, ownership
from checkpoint.host.run import run
from checkpoint.undo import Undo
from tests.unit.checkpoint.engines.runtimes import ID, Runtime

INTERNAL: dict[str, Any] = {
    "config": {"cgroups": {"memory": 1 << 20, "cpu_quota": 0, "pids_limit": 9}},
    "external_descriptors": ["/dev/null", "pipe:[1]", "pipe:[2]"],
}


@pytest.fixture
def beneath(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """Return a runc with a running container."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    runtime = Runtime(tmp_path, "runc", tmp_path / "root", status=1)
    runtime.has("state.json", INTERNAL)
    return runtime


@pytest.fixture
def runc(beneath: Runtime) -> Runc:
    return Runc(beneath.root)


def test_a_running_container_is_described(runc: Runc, beneath: Runtime) -> None:
    found = runc.inspect(ID)
    assert (found.id, found.name, found.pid) == (ID, ID, 4242)
    assert found.bundle == beneath.bundle
    assert found.trees == (Tree(destination=ROOTFS, root=beneath.bundle / "rootfs"),)
    assert found.resources == {"memory": {"limit": 1 << 20}, "pids": {"limit": 9}}
    assert found.descriptors == ("/dev/null", "pipe:[1]", "pipe:[2]")
    assert found.network_namespace is None
    assert beneath.asked() == [["state", ID]]


@pytest.mark.parametrize(
    ("namespaces", "path"),
    [
        ([{"type": "mount", "path": "/x"}], None),
        ([{"type": "network"}], None),
        ([{"type": "network", "path": "/run/netns/a"}], "/run/netns/a"),
    ],
)
def test_only_a_network_namespace_with_a_path_was_made_before(
    runc: Runc, beneath: Runtime, namespaces: list[dict[str, str]], path: str | None
) -> None:
    beneath.has("state.json", INTERNAL, namespaces=namespaces)
    assert runc.inspect(ID).network_namespace == path


@pytest.mark.parametrize("name", ["none", f"../root/{ID}", "x" * 300, ""])
def test_a_container_that_is_not_there_is_not_found(
    runc: Runc, beneath: Runtime, name: str
) -> None:
    with pytest.raises(ContainerNotFound, match="runc knows no container"):
        runc.inspect(name)
    assert beneath.asked() == []


def test_a_container_whose_state_is_damaged_is_refused(runc: Runc, beneath: Runtime) -> None:
    (beneath.root / ID / "told").unlink()
    with pytest.raises(ContainerNotFound, match=r"no usable state of '1f2e': .*no such container"):
        runc.inspect(ID)
    beneath.has("state.json", INTERNAL, state={"pid": "many"})
    with pytest.raises(DataInvalid, match="runc's state of '1f2e'"):
        runc.inspect(ID)


def test_a_container_that_does_not_run_is_refused(runc: Runc, beneath: Runtime) -> None:
    beneath.has("state.json", INTERNAL, state={"status": "paused"})
    with pytest.raises(ContainerNotRunning, match="is paused"):
        runc.inspect(ID)


def test_a_container_of_crun_has_the_descriptors_and_limits_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(cgroups, "limits", lambda pid: {"pids": {"limit": pid}})
    runtime = Runtime(tmp_path, "crun", tmp_path / "root")
    runtime.has("status", {"external_descriptors": '["/dev/pts/0"]'})
    found = Crun(runtime.root).inspect(ID)
    assert found.descriptors == ("/dev/pts/0",)
    assert found.resources == {"pids": {"limit": 4242}}, "in force, as crun records none"
    runtime.has("status", {})
    assert Crun(runtime.root).inspect(ID).descriptors == ()


def test_a_checkpoint_that_fails_leaves_its_words(
    runc: Runc, beneath: Runtime, tmp_path: Path
) -> None:
    process = runc.checkpoint(runc.inspect(ID), tmp_path, dict(os.environ))
    assert process.wait(20) == 1
    assert (tmp_path / "engine.log").read_text() == "it has no CRIU\n"
    place = ["--image-path", str(tmp_path), "--work-path", str(tmp_path)]
    options = ["--tcp-established", "--file-locks"]
    assert beneath.asked()[-1] == ["checkpoint", *place, *options, ID]


def test_a_restore_has_the_containers_own_streams(
    runc: Runc, beneath: Runtime, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as said:
        process = runc.restore(
            ID, beneath.bundle, tmp_path, dict(os.environ), (subprocess.DEVNULL, writer, writer)
        )
        os.close(writer)
        assert process.wait(20) == 1
        assert said.read() == b"it has no CRIU\n"
    words = beneath.asked()[-1]
    assert words[:4] == ["--log", f"{tmp_path}/runtime.log", "--log-format", "json"]
    assert words[4:6] == ["restore", "--detach"]
    assert words[-1] == ID


@pytest.mark.parametrize("shared", [False, True])
def test_what_was_moved_away_is_marked_unless_the_target_has_the_same_files(
    runc: Runc, beneath: Runtime, shared: bool
) -> None:
    for thing in runc.remaining(runc.inspect(ID), shared=shared):
        thing.remove()
    assert not runc.exists(ID)
    assert (beneath.bundle / MARKER).exists() is not shared


def test_another_container_of_the_name_is_not_removed(runc: Runc, beneath: Runtime) -> None:
    container = runc.inspect(ID)
    (beneath.root / ID).rename(beneath.root / "before")
    beneath.has("state.json", INTERNAL)
    for thing in runc.remaining(container, shared=False):
        thing.remove()
    assert runc.exists(ID)
    assert ["delete", "--force", ID] not in beneath.asked()


def test_a_runtime_alone_has_no_restart_policy_and_no_image(runc: Runc, tmp_path: Path) -> None:
    """A runtime alone lacks what an engine above a runtime has."""
    container = runc.inspect(ID)
    asked = runc.layers(container), runc.pack(container, tmp_path)
    assert asked == ([], b"")
    before = sorted(tmp_path.rglob("*"))
    with Undo() as undo:
        runc.suspend_restart_policy(container, undo)
        runc.pause_monitor(container, undo)
    runc.end_monitor(container)
    runc.record_ended(container)
    runc.export_image(container, frozenset(), tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_target_takes_the_description_of_the_source(runc: Runc, beneath: Runtime) -> None:
    """The description has the limits in force."""
    ownership.mark(beneath.bundle / "other")
    told = runc.describe(runc.inspect(ID))
    assert told["config"]["linux"]["resources"] == {
        "pids": {"limit": 9},
        "memory": {"limit": 1 << 20},
    }
    with Undo() as undo:
        arriving = runc.arrival(ID, told, undo)
    assert isinstance(arriving, IncomingBundle)


def test_a_runtime_that_is_not_there_is_a_command_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beneath: Runtime, runc: OciRuntime
) -> None:
    container = runc.inspect(ID)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandFailed, match="No such file"):
        runc.checkpoint(container, tmp_path, {})


def test_a_runc_that_was_killed_in_a_restore_costs_the_container_no_file(
    runc: Runc, beneath: Runtime, tmp_path: Path
) -> None:
    """Its `delete --force` removes the state directory with all that is mounted in it."""
    rootfs, left = tmp_path / "rootfs", beneath.root / ID / "criu-root"
    for directory in (rootfs, left):
        directory.mkdir()
    (rootfs / "precious").touch()
    for _ in range(2):
        subprocess.run(["mount", "--bind", str(rootfs), str(left)], check=True)
    seen: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "checkpoint.engines.oci.runtime.run",
            lambda argv: seen.append(os.path.ismount(left)) if "delete" in argv else run(argv),
        )
        runc.made(ID).remove()
    assert seen == [False]
    assert (rootfs / "precious").exists()
    assert not left.exists()
