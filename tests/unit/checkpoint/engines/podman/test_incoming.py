"""Tests of checkpoint/engines/podman/incoming.py: what the target's podman is given."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.engines import left_behind
from checkpoint.engines.podman import incoming
from checkpoint.engines.podman.engine import without_contents
from checkpoint.engines.podman.incoming import IncomingPodmanContainer, with_output
from checkpoint.errors import DataInvalid, NameInUse
from checkpoint.host import proc
from checkpoint.undo import Undo
from tests.unit.checkpoint.engines.archive_bytes import file_of, pack, unpack
from tests.unit.checkpoint.engines.podman.program import Podman
from tests.unit.helpers.podman import DESCRIPTION, arriving, fake_podman, restore

#: What podman writes of a container, and longer than a block of tar's.
CONFIG = json.dumps({"name": "x" * 600}).encode()


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the log that the target's podman has of the container."""
    return fake_podman(tmp_path, monkeypatch)


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Return the path of the log that the source names."""
    return tmp_path / "named"


@pytest.fixture
def arrival(log: Path, named: Path) -> Iterator[IncomingPodmanContainer]:
    """Yield the prepared arrival of the container."""
    with arriving(named) as made:
        yield made


def test_late_output_goes_to_the_log_of_this_podman(
    arrival: IncomingPodmanContainer, log: Path, named: Path, tmp_path: Path
) -> None:
    arrival.take_output(b"1\n2\n")
    restore(arrival, tmp_path)
    arrival.take_output(b"3\n")
    assert log.read_bytes() == b"1\n2\n3\n"
    assert not named.exists()


def test_late_output_makes_no_log(
    arrival: IncomingPodmanContainer, log: Path, named: Path, tmp_path: Path
) -> None:
    restore(arrival, tmp_path)
    log.unlink()
    arrival.take_output(b"3\n")
    assert not log.exists()
    assert not named.exists()


def test_output_that_the_source_has_not_announced_is_dropped(log: Path, tmp_path: Path) -> None:
    with Undo() as undo:
        arrival = IncomingPodmanContainer("x", DESCRIPTION, undo)
        arrival.prepare(b"", shared=False)
        restore(arrival, tmp_path)
        arrival.take_output(b"3\n")
    assert log.read_bytes() == b""


@pytest.mark.parametrize("name", ["../../../x", "--all", "", "a/b"])
def test_an_id_that_is_none_is_refused(name: str) -> None:
    with Undo() as undo, pytest.raises(DataInvalid):
        IncomingPodmanContainer("x", {**DESCRIPTION, "id": name}, undo)


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ([b"0123\n", b"5678\n"], b"0123\n5678\n"),
        ([b"0123\n", b"5678\n", b"a\n"], b"5678\na\n"),
        ([b"0\n2\n4\n6\n8\n", b"a\n"], b"2\n4\n6\n8\na\n"),
        ([b"0\n2\n4\n6\n8\n", b"ab\n"], b"4\n6\n8\nab\n"),
        ([b"one\n", b"line of more than that\n", b"two\n"], b"two\n"),
        ([b"no end of a line"], b""),
    ],
)
def test_the_last_lines_of_much_output_are_kept(
    arrival: IncomingPodmanContainer,
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[bytes],
    kept: bytes,
) -> None:
    monkeypatch.setattr(incoming, "MOST_OUTPUT_BYTES", 10)
    for each in lines:
        arrival.take_output(each)
    restore(arrival, tmp_path)
    assert log.read_bytes() == kept


@pytest.mark.parametrize("output", [b"", b"line\n", b"2026-01-01T00:00:00Z stdout F \xff\n" * 1000])
def test_output_is_added_to_the_archive(tmp_path: Path, output: bytes) -> None:
    archive = without_contents(
        file_of(tmp_path, pack({"config.dump": CONFIG, "ctr.log": b"old\n"}))
    )
    found = unpack(with_output(archive, output))
    assert found == {"config.dump": CONFIG, "checkpoint/inventory.img": b"", "ctr.log": output}


def test_output_is_added_behind_whatever_the_archive_is() -> None:
    """The archive comes from the other host, and is not parsed on the way to podman."""
    for archive in (b"", b"x", bytes(2048), b"y" * 513, pack({"a": b"1"})):
        found = with_output(archive, b"line\n")
        assert len(found) % 512 == 0
        assert len(found) <= len(archive) + 4 * 512
        with tarfile.open(fileobj=io.BytesIO(found[-4 * 512 :])) as tar:
            assert [(entry.name, entry.size) for entry in tar] == [("ctr.log", 5)]


ID, IMAGE = "1f2e" * 16, "ff" * 32
VOLUME = {"Name": "data", "Driver": "local"}


def description(**changes: Any) -> dict[str, Any]:
    """Return what the source tells of a container."""
    return {
        "id": ID,
        "runtime": "crun",
        "cgroup": "/box",
        "restart": {"Name": "always", "MaximumRetryCount": 0},
        "log": None,
        "image": {"id": IMAGE, "name": "redis", "layers": ["sha256:1a", "sha256:2b"]},
        "volumes": {},
        "networks": {},
        **changes,
    }


@pytest.fixture
def undo() -> Iterator[Undo]:
    with Undo() as undo:
        yield undo


def incoming_box(undo: Undo, **changes: Any) -> IncomingPodmanContainer:
    return IncomingPodmanContainer("box", description(**changes), undo)


def test_a_runtime_that_is_not_there_is_an_objection(
    podman: Podman, undo: Undo, tmp_path: Path
) -> None:
    runtime = "no-such-runtime"
    said = [f"its container is run by {runtime}, which is not there"]
    assert incoming_box(undo, runtime=runtime).objections() == said
    (tmp_path / "bin" / runtime).symlink_to("/bin/true")
    assert incoming_box(undo, runtime=runtime).objections() == []


def test_layers_that_podman_has_need_not_be_sent(podman: Podman, undo: Undo) -> None:
    podman.lacks("image", IMAGE)
    assert incoming_box(undo).layers_there() == []
    podman.says("images*", "ee\n")
    podman.says("image inspect ee", [{"RootFS": {"Layers": ["sha256:1a", "sha256:9f"]}}])
    assert incoming_box(undo).layers_there() == ["sha256:1a"]
    podman.says(f"image exists {IMAGE}")
    podman.says(f"image inspect {IMAGE}", [{}])
    assert incoming_box(undo).layers_there() is None


def test_an_image_that_arrives_gets_its_name(podman: Podman, undo: Undo, tmp_path: Path) -> None:
    podman.says("pull*", f"{IMAGE}\n")
    incoming_box(undo).load_image(tmp_path)
    assert podman.asked("tag") == [f"tag {IMAGE} redis"]


def test_what_the_container_has_besides_is_made(podman: Podman, undo: Undo, tmp_path: Path) -> None:
    podman.lacks("volume", "data")
    described = {**VOLUME, "Mountpoint": str(tmp_path), "CreatedAt": "2024-01-01T00:00:00Z"}
    podman.says("volume inspect data", [described])
    made = incoming_box(undo, volumes={"/data": VOLUME})
    assert made.volumes() == ["data"]
    assert made.prepare(b"", shared=False) == {"/data": tmp_path}
    assert podman.asked("volume create") == ["volume create --driver local data"]
    left_behind.note("podman", "data", "2024-01-01T00:00:00Z")
    made.settle()
    undo.settle()
    assert not left_behind.is_noted("podman", "data", "2024-01-01T00:00:00Z")


@pytest.fixture
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the place where the only cgroup hierarchy of this host is mounted."""
    mount = SimpleNamespace(kind="cgroup2", point=str(tmp_path), options="rw")
    monkeypatch.setattr(proc, "mounts", lambda pid: [mount])
    return tmp_path


def restored_box(podman: Podman, undo: Undo, directory: Path) -> IncomingPodmanContainer:
    """Return a container whose names were free, and which podman has been asked to restore."""
    for name in ("box", ID):
        podman.lacks("container", name)
    made = incoming_box(undo)
    made.prepare(b"", shared=False)
    made.start_restore(directory, directory, dict(os.environ)).wait(20)
    return made


def test_a_restored_container_is_removed_with_its_cgroup(
    podman: Podman, undo: Undo, tmp_path: Path, hierarchy: Path
) -> None:
    for name in ("box", ID):
        podman.lacks("container", name)
    made = incoming_box(undo)
    made.prepare(b"", shared=False)
    made.take_output(b"a line\n")
    made.start_restore(tmp_path, tmp_path, dict(os.environ)).wait(20)
    assert b"a line\n" in (tmp_path / "podman.tar").read_bytes()
    (asked,) = podman.asked("container restore")
    assert f"--import={tmp_path}/podman.tar" in asked.split()
    (hierarchy / "box/beneath").mkdir(parents=True)
    made.restore_held()
    assert podman.asked("rm") == []
    undo.close()
    assert podman.asked("rm") == [f"rm --force --ignore --volumes --time=0 {ID}"]
    assert not (hierarchy / "box").exists()


def test_a_cgroup_that_was_there_stays(
    podman: Podman, undo: Undo, tmp_path: Path, hierarchy: Path
) -> None:
    (hierarchy / "box").mkdir()
    made = restored_box(podman, undo, tmp_path)
    made.restore_held()
    undo.close()
    assert (hierarchy / "box").exists()


def test_a_container_that_was_not_seen_restored_is_removed_by_its_id(
    podman: Podman, undo: Undo, tmp_path: Path, hierarchy: Path
) -> None:
    """Its cgroup may be another's."""
    restored_box(podman, undo, tmp_path)
    (hierarchy / "box/beneath").mkdir(parents=True)
    undo.close()
    assert podman.asked("rm") == [f"rm --force --ignore --volumes --time=0 {ID}"]
    assert (hierarchy / "box").exists()


def test_a_settled_container_has_its_restart_policy(
    podman: Podman, undo: Undo, tmp_path: Path
) -> None:
    restored_box(podman, undo, tmp_path)
    podman.says(f"container exists {ID}")
    podman.says(f"container inspect {ID}", [{"State": {"Pid": os.getpid(), "Status": "running"}}])
    assert podman.asked("update") == []
    undo.settle()
    assert podman.asked("update") == [f"update --restart=always {ID}"]


@pytest.mark.parametrize("taken", ["box", ID])
def test_a_name_that_was_taken_meanwhile_refuses_the_restore(
    podman: Podman, undo: Undo, tmp_path: Path, taken: str
) -> None:
    for name in {"box", ID} - {taken}:
        podman.lacks("container", name)
    with pytest.raises(NameInUse, match=f"a podman container named '{taken}' was started"):
        incoming_box(undo).start_restore(tmp_path, tmp_path, {})
    assert podman.asked("container restore") == []


@pytest.mark.parametrize("change", [{"id": "../x"}, {"image": {}}, {"networks": {"net": {}}}])
def test_a_description_of_another_form_is_refused(undo: Undo, change: dict[str, Any]) -> None:
    with pytest.raises(DataInvalid):
        incoming_box(undo, **change)
