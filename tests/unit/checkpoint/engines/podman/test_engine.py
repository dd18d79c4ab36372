"""Tests of checkpoint/engines/podman/engine.py: which containers podman has and can give away."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.podman import engine as podman
from checkpoint.engines.podman import store
from checkpoint.engines.podman.engine import MOST_PACKED_BYTES, Podman, without_contents
from checkpoint.errors import (
    CommandFailed,
    ContainerNotFound,
    EngineRefused,
    ImageError,
)
from tests.fuzz.parser import bounded_memory
from tests.unit.checkpoint.engines.archive_bytes import DAMAGES, file_of, pack, unpack
from tests.unit.checkpoint.engines.descriptions import changed
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
    data = pack({"config.dump": b"{}" * 300})
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
