"""Tests of checkpoint/files/tmpfs.py: the RAM that tmpfs mounts take, and tar that copies them."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.errors import CommandFailed
from checkpoint.files import tmpfs
from checkpoint.files.beneath import TreeRoot
from checkpoint.files.tmpfs import Packing, Tmpfs, Unpacking, content_bytes
from tests.unit.helpers.descendants import Descendants

MIB = 1 << 20


def mount_of(path: Path) -> Tmpfs:
    return Tmpfs(path=str(path), options="rw", device=path.stat().st_dev)


def test_content_is_counted_once_per_mount(mounted: Path) -> None:
    before = content_bytes(os.getpid(), [mount_of(mounted)])
    (mounted / "file").write_bytes(bytes(5 * MIB))
    found = content_bytes(os.getpid(), [mount_of(mounted), mount_of(mounted)])
    assert found == 2 * (before + 5 * MIB)


def test_content_without_a_limit_is_counted_too(mounted: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=0", str(mounted)], check=True)
    (mounted / "a").mkdir()
    (mounted / "a/file").write_bytes(bytes(5 * MIB))
    (mounted / "link").hardlink_to(mounted / "a/file")
    assert content_bytes(os.getpid(), [mount_of(mounted)]) == 5 * MIB


def test_a_mount_that_is_gone_or_another_takes_no_ram(
    mounted: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A symlink in the place of a mount leads to no file system of the host's."""
    (mounted / "link").symlink_to("/proc/self/fd/../root")
    elsewhere = [
        Tmpfs(path=str(mounted / name), options="rw", device=12345) for name in ("none", "link", "")
    ]
    assert content_bytes(os.getpid(), elsewhere) == 0


@contextlib.contextmanager
def tars(mounted: Path, target: Path) -> Iterator[tuple[Packing, Unpacking]]:
    """Yield the tar that packs a tmpfs of this process, and the tar that unpacks to a directory."""
    with (
        TreeRoot(mounted) as source,
        TreeRoot(target) as root,
        Path("/proc/self/ns/mnt").open() as namespace,
    ):
        packing, unpacking = Packing(source, namespace.fileno()), Unpacking(root)
        yield packing, unpacking


def test_tar_that_is_ready_only_waits(
    mounted: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (mounted / "file").write_text("content")
    target = tmp_path_factory.mktemp("target")
    descendants = Descendants()
    with tars(mounted, target) as (packing, unpacking):
        packing.wait_ready()
        unpacking.wait_ready()
        assert descendants.new() == {"tar": 2}, "no enclosure is being made any more"
        for piece in packing.archive([".", "file"], complete=True):
            unpacking.write(piece)
        unpacking.finish()
    assert (target / "file").read_text() == "content"


def test_tar_that_ends_before_the_archive_does_has_failed(mounted: Path) -> None:
    """An archive ends with two blocks of zeros, after which tar ends well, whatever follows."""
    with TreeRoot(mounted) as root:
        unpacking = Unpacking(root)
        for _ in range(2):
            with pytest.raises(CommandFailed, match="ended before the archive"):
                for _ in range(100):
                    unpacking.write(bytes(MIB))
        unpacking.kill()


def test_very_many_complaints_block_no_copy(
    mounted: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tar complains of each socket that it leaves out, and of each time in the future."""
    # The last option is the one that turns warnings off.
    monkeypatch.setattr(tmpfs, "PRESERVE", tmpfs.PRESERVE[:-1])
    names = []
    for number in range(1500):
        names += [f"socket-{'x' * 60}-{number}", f"young-{'x' * 60}-{number}"]
        os.mknod(mounted / names[-2], stat.S_IFSOCK | 0o600)
        (mounted / names[-1]).touch()
        os.utime(mounted / names[-1], (4e9, 4e9))
    target = tmp_path_factory.mktemp("target")
    with tars(mounted, target) as (packing, unpacking):
        for piece in packing.archive(["", *names], complete=True):
            unpacking.write(piece)
        unpacking.finish()
    assert sum(1 for _ in target.iterdir()) == 1500


@pytest.mark.parametrize("waited_for", [False, True])
def test_tar_that_gets_nothing_is_ended(mounted: Path, waited_for: bool) -> None:
    before, descendants = len(os.listdir("/proc/self/fd")), Descendants()
    with TreeRoot(mounted) as root, Path("/proc/self/ns/mnt").open() as namespace:
        for tar in (Packing(root, namespace.fileno()), Unpacking(root)):
            if waited_for:
                tar.wait_ready()
            tar.kill()
    assert descendants.new() == {}
    assert len(os.listdir("/proc/self/fd")) == before
