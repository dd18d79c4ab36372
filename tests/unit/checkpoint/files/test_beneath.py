"""Tests of checkpoint/files/beneath.py: no symlink of a tree leads out of it."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.files.beneath import TreeRoot, attributes, empty_tree, remove_tree
from checkpoint.files.overlay import is_whiteout
from checkpoint.host.identity import PathIdentity


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a directory beside the tree, with a file in it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").touch()
    return tmp_path / "outside"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/a/b/file").touch()
    (tmp_path / "root/a/file").touch()
    return tmp_path / "root"


def remove(root: Path, paths: list[str]) -> None:
    with TreeRoot(root) as tree:
        tree.remove(paths)


def set_mtime(root: Path, path: str, mtime_ns: int) -> None:
    with TreeRoot(root) as tree:
        tree.set_mtime(path, mtime_ns)


def left(root: Path) -> list[str]:
    """Return the paths that are left of a tree."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_files_and_whole_directories_are_removed(root: Path) -> None:
    remove(root, ["a/b", "a/b/file"])
    assert left(root) == ["a", "a/file"]
    remove(root, ["a"])
    assert left(root) == []


def test_what_is_gone_already_is_no_error(root: Path) -> None:
    remove(root, ["none", "none/file", "a/file/below"])
    assert left(root) == ["a", "a/b", "a/b/file", "a/file"]


def test_a_symlink_is_removed_and_not_followed(root: Path, outside: Path) -> None:
    (root / "way").symlink_to(outside)
    (root / "a/way").symlink_to(outside)
    remove(root, ["a/way", "a/way/file", "way", "way/file"])
    assert left(root) == ["a", "a/b", "a/b/file", "a/file"]
    assert (outside / "file").exists()


def test_a_symlink_below_a_removed_directory_is_not_followed(root: Path, outside: Path) -> None:
    (root / "a/b/way").symlink_to(outside)
    remove(root, ["a/b"])
    assert (outside / "file").exists()


@pytest.mark.parametrize("path", ["../outside/file", "a/../../outside/file"])
def test_no_path_with_dots_leads_out(root: Path, outside: Path, path: str) -> None:
    with pytest.raises(OSError, match="cross-device"):
        remove(root, [path])
    with pytest.raises(OSError, match="cross-device"):
        set_mtime(root, path, 1)
    assert (outside / "file").stat().st_mtime_ns != 1


def test_times_are_set_without_following_symlinks(root: Path, outside: Path) -> None:
    (root / "way").symlink_to(outside)
    before = outside.stat().st_mtime_ns, (outside / "file").stat().st_mtime_ns
    set_mtime(root, "a/b", 7)
    set_mtime(root, "way", 8)
    set_mtime(root, "way/file", 9)
    set_mtime(root, "none", 10)
    set_mtime(root, "", 11)
    assert root.stat().st_mtime_ns == 11
    assert (root / "a/b").stat().st_mtime_ns == 7
    assert (root / "way").lstat().st_mtime_ns == 8
    assert (outside.stat().st_mtime_ns, (outside / "file").stat().st_mtime_ns) == before


def test_a_file_is_made_anew_and_read_as_what_it_is(root: Path, outside: Path) -> None:
    (root / "way").symlink_to(outside)
    (root / "link").symlink_to(outside / "file")
    (outside / "file").write_text("of the host")
    os.mkfifo(root / "fifo")
    with TreeRoot(root) as tree:
        tree.create("a/new", b"content")
        assert (tree.read("a/new", 4), tree.read("a/new", 100), tree.read("fifo", 1)) == (
            b"cont",
            b"content",
            b"",
        )
        for name in ("a/new", "link", "way/file"):
            with pytest.raises(OSError, match=r"exists|symbolic links"):
                tree.create(name, b"planted")
        for name in ("link", "way/file", "../outside/file"):
            with pytest.raises(OSError, match=r"symbolic links|cross-device"):
                tree.read(name, 100)
        assert [tree.exists(name) for name in ("a/new", "link", "way/file", "none")] == [
            True,
            True,
            False,
            False,
        ]
    assert (outside / "file").read_text() == "of the host"
    assert (root / "a/new").stat().st_mode & 0o777 == 0o600


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Let no file be opened in the block (getrlimit(2), RLIMIT_NOFILE)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_cannot_be_looked_at_is_an_error_and_not_absent(root: Path) -> None:
    os.setxattr(root / "a", "user.who", b"me")
    with TreeRoot(root) as tree:
        assert tree.attributes("a") == (("user.who", b"me"),)
        assert tree.attributes("none") == tree.attributes("a/file/below") == ()
        for look in (tree.exists, tree.attributes, lambda path: is_whiteout(tree, path)):
            with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
                look("a")
        with pytest.raises(OSError, match="Bad file descriptor"):
            attributes(tree.fd)  # flistxattr(2) takes no O_PATH descriptor


def test_a_file_system_without_attributes_has_none() -> None:
    assert attributes("/proc/self/status") == ()


def test_a_walk_goes_round_what_is_mounted_and_what_leads_out(root: Path, outside: Path) -> None:
    (root / "way").symlink_to(outside)
    (root / "a/mounted").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "test", root / "a/mounted"], check=True)
    try:
        (root / "a/mounted/inner").touch()
        with TreeRoot(root) as tree:
            walked = {
                directory: sorted(path for path, _ in entries)
                for directory, _, entries in tree.walk()
            }
            assert (
                list(tree.walk("way"))
                == list(tree.walk("a/mounted"))
                == list(tree.walk("none"))
                == []
            )
    finally:
        subprocess.run(["umount", root / "a/mounted"], check=True)
    assert walked == {"": ["a", "way"], "a": ["a/b", "a/file", "a/mounted"], "a/b": ["a/b/file"]}


def test_a_tree_of_a_thousand_levels_is_removed(root: Path) -> None:
    for level in range(1, 1000):
        os.mkdir(root / ("d/" * level))
    remove(root, ["d"])
    assert left(root) == ["a", "a/b", "a/b/file", "a/file"]


def test_a_file_on_which_something_is_mounted_stays(root: Path, outside: Path) -> None:
    subprocess.run(["mount", "--bind", outside / "file", root / "a/b/file"], check=True)
    try:
        with pytest.raises(OSError, match="something is mounted there"):
            remove(root, ["a"])
    finally:
        subprocess.run(["umount", root / "a/b/file"], check=True)
    assert (root / "a/b/file").exists()


@pytest.mark.parametrize("undo", [empty_tree, remove_tree])
def test_a_tree_with_a_mount_in_it_is_not_undone(
    root: Path, outside: Path, undo: Callable[[PathIdentity], None]
) -> None:
    (root / "way").symlink_to(outside)
    subprocess.run(["mount", "--bind", outside, root / "a/b"], check=True)
    try:
        with pytest.raises(OSError, match="something is mounted there"):
            undo(PathIdentity(root))
    finally:
        subprocess.run(["umount", root / "a/b"], check=True)
    undo(PathIdentity(root))
    assert root.exists() is (undo is empty_tree)
    assert (outside / "file").exists()


@pytest.mark.parametrize("path", ["a", "a/b"])
def test_a_directory_on_which_something_is_mounted_stays(
    root: Path, outside: Path, path: str
) -> None:
    (root / "a/b/file").unlink()
    subprocess.run(["mount", "--bind", outside, root / "a/b"], check=True)
    try:
        with pytest.raises(OSError, match="something is mounted there"):
            remove(root, [path])
        assert (outside / "file").exists()
    finally:
        subprocess.run(["umount", root / "a/b"], check=True)


def test_a_tree_is_removed_only_if_it_is_the_one_that_was_meant(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    (directory / "deep").mkdir(parents=True)
    identity = PathIdentity(directory)
    directory.rename(tmp_path / "moved")
    directory.mkdir()
    (directory / "precious").touch()
    remove_tree(identity)
    assert (directory / "precious").exists()
    (directory / "precious").unlink()
    directory.rmdir()
    (tmp_path / "moved").rename(directory)
    remove_tree(identity)
    assert not directory.exists()
    identity.close()
