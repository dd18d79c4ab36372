"""Tests of checkpoint/engines/occupied.py: what a bundle may overwrite on the target."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from checkpoint.engines.base import MARKER
from checkpoint.engines.occupied import is_taken
from checkpoint.files.beneath import is_somebodys_root

#: A process whose root is a directory, until its input ends.
CHROOTED = "import os, sys; os.chroot(sys.argv[1]); print(flush=True); sys.stdin.read()"


@contextlib.contextmanager
def used(rootfs: Path) -> Iterator[None]:
    """Have a process whose root is a directory run for the length of the block."""
    argv = [sys.executable, "-c", CHROOTED, str(rootfs)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate()


def test_what_a_move_has_left_may_be_filled_again(bundle: Path) -> None:
    assert not is_taken(bundle, bundle)
    assert not is_taken(bundle / "rootfs", bundle)
    assert not is_taken(bundle / "none", bundle)
    (bundle / MARKER).unlink()
    assert is_taken(bundle, bundle)
    assert is_taken(bundle / "rootfs", bundle)
    assert not is_taken(bundle / "rootfs/data", bundle), "nothing is in it"


def test_what_is_no_directory_is_taken(bundle: Path) -> None:
    (bundle / "file").write_text("somebody's")
    (bundle / "link").symlink_to("nowhere")
    (bundle / "through").symlink_to("rootfs")
    for name in ("file", "file/rootfs", "file/a/rootfs", "link", "link/rootfs"):
        assert is_taken(bundle / name, bundle), name
        assert is_taken(bundle / name, bundle / name), name
    for name in ("through", "through/none", "none/rootfs"):
        assert not is_taken(bundle / name, bundle), name


def test_a_rootfs_that_another_container_runs_on_is_taken(bundle: Path) -> None:
    assert not is_somebodys_root(bundle / "rootfs")
    assert not is_somebodys_root(bundle / "none")
    with used(bundle / "rootfs"):
        assert is_somebodys_root(bundle / "rootfs")
        assert is_taken(bundle / "rootfs", bundle)
        assert not is_somebodys_root(bundle)
    assert not is_taken(bundle / "rootfs", bundle)


def test_a_rootfs_in_which_something_is_mounted_is_taken(bundle: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", bundle / "rootfs"], check=True)
    try:
        assert not is_taken(bundle / "rootfs", bundle), "it may be a file system of its own"
        (bundle / "rootfs/data").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", bundle / "rootfs/data"], check=True)
        assert is_taken(bundle / "rootfs", bundle)
    finally:
        subprocess.run(["umount", "--recursive", bundle / "rootfs"], check=True)
