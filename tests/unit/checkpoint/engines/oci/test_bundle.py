"""Tests of checkpoint/engines/oci/bundle.py: what a bundle's arrival makes, and undoes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from checkpoint.engines.base import MARKER, ROOTFS
from checkpoint.engines.oci.bundle import IncomingBundle
from checkpoint.engines.oci.runc import Runc
from checkpoint.errors import CommandFailed, DataInvalid, ImageError, NameInUse
from checkpoint.files.made import MadeDirectory
from checkpoint.host.identity import PathRecord
from checkpoint.undo import Made, Undo


def arrive(bundle: Path) -> None:
    """Have a container arrive, and roll back when some of its files are there."""
    fields = {
        "bundle": str(bundle),
        "rootfs": str(bundle / "rootfs"),
        "config": {"root": {"path": "rootfs"}, "linux": {"cgroupsPath": "/x"}},
        "descriptors": [],
        "owned": {},
    }
    with Undo() as undo:
        IncomingBundle(Runc(), "x", fields, undo).prepare(b"", shared=False)
        assert (bundle / MARKER).exists()
        assert "cgroupsPath" in (bundle / "config.json").read_text()
        (bundle / "rootfs/data").mkdir(exist_ok=True)
        (bundle / "rootfs/data/file").touch()


@pytest.mark.parametrize(
    "there", [[], ["bundle"], ["bundle", "bundle/rootfs"]], ids=["none", "bundle", "rootfs"]
)
def test_a_place_that_was_empty_is_empty_again_after_a_roll_back(
    tmp_path: Path, there: list[str]
) -> None:
    if there[1:]:  # a bundle with an empty rootfs must be an earlier migration's
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / MARKER).touch()
    for name in there:
        (tmp_path / name).mkdir(exist_ok=True)
    before = sorted(tmp_path.rglob("*"))
    arrive(tmp_path / "bundle")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_configuration_that_was_there_is_there_again_after_a_roll_back(bundle: Path) -> None:
    (bundle / "config.json").write_text("as it was")
    arrive(bundle)
    assert (bundle / "config.json").read_text() == "as it was"


ID = "box"


class Runtime:
    """A runtime whose containers are directories, and which keeps the arguments of each restore."""

    name = "runc"

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir()
        self.restored: list[tuple[Any, ...]] = []

    def exists(self, container_id: str) -> bool:
        return (self._root / container_id).exists()

    def made(self, container_id: str) -> Made:
        return MadeDirectory(path=PathRecord.of(self._root / container_id), whole=True)

    def restore(
        self,
        container_id: str,
        bundle: Path,
        images: Path,
        env: Mapping[str, str],
        stdio: tuple[int, int, int],
    ) -> subprocess.Popen[bytes]:
        (self._root / container_id).mkdir()
        self.restored.append((container_id, bundle, images, [os.fstat(fd).st_rdev for fd in stdio]))
        return cast("subprocess.Popen[bytes]", None)


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(tmp_path / "runtime")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return the place of the bundle, where no directory is yet, nor on the way to it."""
    return tmp_path / "srv/box"


Arrive = Callable[[Undo], IncomingBundle]


@pytest.fixture
def arriving(runtime: Runtime, place: Path) -> Arrive:
    fields = {
        "bundle": str(place),
        "rootfs": str(place / "rootfs"),
        "config": {"root": {"path": "rootfs"}, "linux": {"cgroupsPath": None}},
        "descriptors": ["/dev/null"],
        "owned": {str(place): [0o750, 0, 7], str(place / "config.json"): [0o640, 0, 7]},
    }
    return lambda undo: IncomingBundle(runtime, ID, fields, undo)


def content(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_a_bundle_is_made_as_it_was(place: Path, arriving: Arrive) -> None:
    with Undo() as undo:
        made = arriving(undo)
        assert (made.objections(), made.volumes(), made.layers_there()) == ([], [], None)
        assert made.prepare(b"", shared=False) == {ROOTFS: place / "rootfs"}
        status = place.stat()
        assert (status.st_mode & 0o777, status.st_gid) == (0o750, 7)
        assert json.loads((place / "config.json").read_text())["root"] == {"path": "rootfs"}
        assert (place / "config.json").stat().st_mode & 0o777 == 0o640
        assert (place / MARKER).exists(), "until it runs, the next migration may overwrite it"
        made.settle()
        undo.settle()
        assert not (place / MARKER).exists()
        undo.pop_all()


def test_a_roll_back_removes_a_bundle_and_the_directories_above_that_were_made(
    tmp_path: Path, place: Path, arriving: Arrive
) -> None:
    with Undo() as undo:
        arriving(undo).prepare(b"", shared=False)
        (place / "rootfs/file").touch()  # as a transfer makes it
    assert not (tmp_path / "srv").exists()


def test_a_directory_that_was_there_stays_and_is_empty_again(place: Path, arriving: Arrive) -> None:
    place.mkdir(parents=True)
    with Undo() as undo:
        arriving(undo).prepare(b"", shared=False)
        (place / "rootfs/file").touch()
    assert list(place.iterdir()) == []


def test_what_an_earlier_migration_left_is_renewed_and_given_back(
    place: Path, arriving: Arrive
) -> None:
    (place / "rootfs").mkdir(parents=True)
    (place / "rootfs/file").write_text("before")
    (place / "config.json").write_text("{}")
    (place / MARKER).touch()
    before = content(place)
    with Undo() as undo:
        arriving(undo).prepare(b"", shared=False)
        assert (place / "config.json").read_text() != "{}"
    assert content(place) == before


def test_files_of_somebody_elses_are_not_overwritten(place: Path, arriving: Arrive) -> None:
    (place / "rootfs").mkdir(parents=True)
    (place / "config.json").write_text("theirs")
    with Undo() as undo, pytest.raises(ImageError, match="with other files in it"):
        arriving(undo).prepare(b"", shared=False)
    assert content(place) == {"config.json": b"theirs"}


def test_files_that_both_hosts_see_are_the_containers_own(place: Path, arriving: Arrive) -> None:
    (place / "rootfs").mkdir(parents=True)
    (place / "rootfs/file").write_text("shared")
    (place / "config.json").write_text("{}")
    with Undo() as undo:
        arriving(undo).prepare(b"", shared=True)
        assert not (place / MARKER).exists()
    assert content(place) == {"config.json": b"{}", "rootfs/file": b"shared"}


# --- the restore ---------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def test_a_restore_gets_the_containers_streams(
    runtime: Runtime, place: Path, images: Path, arriving: Arrive
) -> None:
    before = os.listdir("/proc/self/fd")
    with Undo() as undo:
        made = arriving(undo)
        made.load_image(images)
        made.take_output(b"what the engine has logged: this one has no log")
        made.start_restore(images, images, {})
        assert len(os.listdir("/proc/self/fd")) == len(before)
        assert json.loads((images / "descriptors.json").read_text()) == ["/dev/null"]
        null = os.stat("/dev/null").st_rdev
        assert runtime.restored == [(ID, place, images, [null] * 3)]
    assert runtime.exists(ID), "nobody has seen it restored: it may be another's"


def test_a_restored_container_is_removed_with_the_move(
    runtime: Runtime, images: Path, arriving: Arrive
) -> None:
    with Undo() as undo:
        made = arriving(undo)
        made.start_restore(images, images, {})
        made.restore_held()
        assert runtime.exists(ID)
    assert not runtime.exists(ID)


def test_a_container_that_was_started_meanwhile_refuses_the_restore(
    runtime: Runtime, images: Path, arriving: Arrive
) -> None:
    with Undo() as undo:
        made = arriving(undo)
        made.start_restore(images, images, {})
        with pytest.raises(NameInUse, match="a runc container named 'box' was started"):
            made.start_restore(images, images, {})


def test_streams_are_closed_if_the_runtime_cannot_be_started(
    runtime: Runtime, images: Path, arriving: Arrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.listdir("/proc/self/fd")

    def fails(*_: object) -> None:
        raise CommandFailed(["runc"], 127, "No such file or directory")

    monkeypatch.setattr(runtime, "restore", fails)
    with Undo() as undo, pytest.raises(CommandFailed):
        arriving(undo).start_restore(images, images, {})
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize(
    "change",
    [{"bundle": 7}, {"descriptors": [None]}, {"config": {"root": {}}}, {"owned": {"/": [1]}}],
)
def test_a_description_of_another_form_is_refused(runtime: Runtime, change: dict[str, Any]) -> None:
    fields = {
        "bundle": "/b",
        "rootfs": "/b/rootfs",
        "config": {"root": {"path": "rootfs"}, "linux": {}},
        "descriptors": [],
        "owned": {},
        **change,
    }
    with pytest.raises(DataInvalid):
        IncomingBundle(runtime, ID, fields, Undo())
