"""How much RAM the files of a container's tmpfs mounts take, looked at through its own root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.rootfs.tmpfs import Tmpfs, content_bytes

MIB = 1 << 20


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def mount_of(path: Path) -> Tmpfs:
    return Tmpfs(path=str(path), options="rw", device=path.stat().st_dev)


def test_content_is_counted(mounted: Path) -> None:
    before = content_bytes(os.getpid(), [mount_of(mounted)])
    (mounted / "file").write_bytes(bytes(5 * MIB))
    found = content_bytes(os.getpid(), [mount_of(mounted), mount_of(mounted)])
    assert found == 2 * (before + 5 * MIB)


def test_what_is_gone_or_another_takes_none(mounted: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A symlink in its place leads to no file system of the host's."""
    (mounted / "link").symlink_to("/proc/self/fd/../root")
    elsewhere = [Tmpfs(path=str(mounted / name), options="rw", device=12345) for name in ("none", "link", "")]
    assert content_bytes(os.getpid(), elsewhere) == 0
