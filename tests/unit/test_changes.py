"""checkpoint/rootfs/changes.py on real files: nothing that changed is missed, whatever its time stamps say."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.rootfs.changes import Changes, changes, snapshot, written_through_mappings
from tests.unit.children import child

OLD_S = 1_000_000_000


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree whose files are old: what a snapshot's moment makes suspect is not what is tested here."""
    root = tmp_path / "root"
    (root / "etc/deep/er").mkdir(parents=True)
    (root / "empty").mkdir()
    for name in ("etc/one", "etc/two", "etc/deep/er/three", "same"):
        (root / name).write_text(name)
    (root / "link").symlink_to("etc/one")
    os.link(root / "same", root / "hard")
    return root


def found(tree: Path, act: Callable[[Path], object], always: set[str] | None = None) -> Changes:
    """What differs after `act`, of a snapshot whose moment is long past every file's."""
    before = snapshot(tree)
    # The files were made moments ago; a snapshot taken later would see them as old.
    object.__setattr__(before, "taken_ns", before.taken_ns + 3600 * 10**9)
    act(tree)
    return changes(before, snapshot(tree), always or set())


def touched(result: Changes) -> set[str]:
    return {path for path, _ in result.directories}


def rewrite_without_a_trace(path: Path, text: str) -> None:
    """Same size, same mtime, same inode."""
    stat = path.stat()
    assert len(text) == stat.st_size
    path.write_text(text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_nothing(tree: Path) -> None:
    result = found(tree, lambda root: None)
    assert result == Changes(changed=(), removed=(), directories=())


def test_reading_is_no_change(tree: Path) -> None:
    assert found(tree, lambda root: [(root / "etc/one").read_text(), list((root / "etc").iterdir())]) == Changes(
        changed=(), removed=(), directories=()
    )


def test_a_file_that_grew(tree: Path) -> None:
    assert found(tree, lambda root: (root / "etc/one").write_text("longer than before")).changed == ("etc/one",)


def test_a_file_rewritten_with_the_same_size_and_time(tree: Path) -> None:
    """rsync's own quick check would miss it."""
    result = found(tree, lambda root: rewrite_without_a_trace(root / "etc/one", "ETC/ONE"))
    assert result.changed == ("etc/one",)


@pytest.mark.parametrize(
    "act",
    [
        lambda path: path.chmod(0o600),
        lambda path: os.utime(path, (OLD_S, OLD_S)),
        lambda path: os.setxattr(path, "user.x", b"1"),
        pytest.param(
            lambda path: os.chown(path, 1234, 1234),
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root"),
        ),
    ],
    ids=["mode", "time", "attribute", "owner"],
)
@pytest.mark.parametrize("name", ["etc/one", "etc/deep"])
def test_what_a_file_is_beside_its_content(tree: Path, act: Callable[[Path], object], name: str) -> None:
    result = found(tree, lambda root: act(root / name))
    assert name in {*result.changed, *touched(result)}
    assert result.removed == ()


def test_an_attribute_of_a_directory_is_not_only_its_time(tree: Path) -> None:
    """`directories` get only their mtime set on the target: an ACL or attribute would be lost."""
    result = found(tree, lambda root: os.setxattr(root / "etc/deep", "user.x", b"1"))
    assert "etc/deep" in result.changed


def test_a_new_file(tree: Path) -> None:
    result = found(tree, lambda root: (root / "etc/new").touch())
    assert result.changed == ("etc/new",)
    assert touched(result) == {"etc"}


def test_a_removed_file(tree: Path) -> None:
    result = found(tree, lambda root: (root / "etc/one").unlink())
    assert result.removed == ("etc/one",)
    assert result.changed == ()
    assert touched(result) == {"etc"}


def test_a_removed_tree(tree: Path) -> None:
    result = found(tree, lambda root: shutil.rmtree(root / "etc/deep"))
    assert result.removed == ("etc/deep", "etc/deep/er", "etc/deep/er/three"), "parents first"


def test_a_renamed_file(tree: Path) -> None:
    result = found(tree, lambda root: (root / "etc/one").rename(root / "etc/uno"))
    assert (result.changed, result.removed) == (("etc/uno",), ("etc/one",))


def test_a_file_renamed_over_another(tree: Path) -> None:
    """As editors and package managers save: same name, another inode."""

    def save(root: Path) -> None:
        rewritten = root / "etc/.one.tmp"
        rewritten.write_text("ETC/ONE")
        stat = (root / "etc/one").stat()
        os.utime(rewritten, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        rewritten.rename(root / "etc/one")

    result = found(tree, save)
    assert (result.changed, result.removed) == (("etc/one",), ())


def test_a_renamed_directory(tree: Path) -> None:
    result = found(tree, lambda root: (root / "etc/deep").rename(root / "moved"))
    assert set(result.changed) >= {"moved", "moved/er", "moved/er/three"}
    assert set(result.removed) == {"etc/deep", "etc/deep/er", "etc/deep/er/three"}


def test_two_files_that_change_places(tree: Path) -> None:
    def swap(root: Path) -> None:
        (root / "etc/one").rename(root / "x")
        (root / "etc/two").rename(root / "etc/one")
        (root / "x").rename(root / "etc/two")

    result = found(tree, swap)
    assert set(result.changed) == {"etc/one", "etc/two"}
    assert result.removed == ()


def file_from_directory(root: Path) -> None:
    shutil.rmtree(root / "etc/deep")
    (root / "etc/deep").write_text("now a file")


def directory_from_file(root: Path) -> None:
    (root / "etc/one").unlink()
    (root / "etc/one").mkdir()
    (root / "etc/one/inside").touch()


def test_a_directory_that_became_a_file(tree: Path) -> None:
    """It must be deleted first: rsync does not put a file where a full directory is."""
    result = found(tree, file_from_directory)
    assert "etc/deep" in result.changed
    assert set(result.removed) == {"etc/deep", "etc/deep/er", "etc/deep/er/three"}


def test_a_file_that_became_a_directory(tree: Path) -> None:
    result = found(tree, directory_from_file)
    assert set(result.changed) >= {"etc/one", "etc/one/inside"}
    assert result.removed == ("etc/one",)


def test_a_link_that_points_elsewhere(tree: Path) -> None:
    def point(root: Path) -> None:
        (root / "link").unlink()
        (root / "link").symlink_to("etc/two")

    result = found(tree, point)
    assert "link" in result.changed
    assert "link" not in result.removed


def test_links_are_not_followed(tree: Path) -> None:
    (tree / "out").symlink_to("/")
    (tree / "in").symlink_to("etc")
    paths = snapshot(tree).files
    assert "out" in paths
    assert not any(path.startswith(("out/", "in/")) for path in paths)


def test_a_new_name_of_a_file(tree: Path) -> None:
    """Every name counts, or rsync would copy the content twice."""
    result = found(tree, lambda root: os.link(root / "same", root / "third"))
    assert set(result.changed) == {"same", "hard", "third"}


def test_all_names_of_a_file_that_changed(tree: Path) -> None:
    assert found(tree, lambda root: (root / "hard").write_text("through one name")).changed == ("hard", "same")


def test_new_directories(tree: Path) -> None:
    result = found(tree, lambda root: (root / "a/b/c").mkdir(parents=True))
    assert result.changed == ("a", "a/b", "a/b/c"), "parents first"


def test_special_files(tree: Path) -> None:
    def make(root: Path) -> None:
        os.mkfifo(root / "fifo")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(root / "socket"))

    assert set(found(tree, make).changed) == {"fifo", "socket"}


@pytest.mark.parametrize("name", ["new\nline", "tab\t", " space ", "-n", "\u00fc", "quote'\"", "a" * 255])
def test_any_name(tree: Path, name: str) -> None:
    assert name in found(tree, lambda root: (root / name).touch()).changed


def test_a_name_that_is_no_text(tree: Path) -> None:
    raw = os.fsencode(tree) + b"/\xff\xfe"
    result = found(tree, lambda root: os.close(os.open(raw, os.O_CREAT)))
    assert [os.fsencode(path) for path in result.changed] == [b"\xff\xfe"]


def test_what_is_as_young_as_the_snapshot_counts(tree: Path) -> None:
    """A write within one tick of the clock after the snapshot may leave the same stamps."""
    before = snapshot(tree)
    assert set(changes(before, snapshot(tree)).changed) >= {"etc/one", "etc/two", "same"}


def test_what_always_counts(tree: Path) -> None:
    result = found(tree, lambda root: None, always={"etc/one", "not/there"})
    assert result.changed == ("etc/one",)


def test_a_tree_that_changes_while_it_is_walked(tree: Path) -> None:
    """It must only not fail; the next look sees the rest."""
    program = """
import os, sys, shutil
print('ready')
while True:
    os.makedirs(sys.argv[1] + '/busy/a/b', exist_ok=True)
    open(sys.argv[1] + '/busy/a/f', 'w').close()
    shutil.rmtree(sys.argv[1] + '/busy')
"""
    with child(program, str(tree)):
        for _ in range(300):
            assert "etc/one" in snapshot(tree).files


MAPPER = """
import mmap, os, sys
kind, path = sys.argv[1:]
fd = os.open(path, os.O_RDWR)
how = {
    'shared': (mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
    'private': (mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE),
    'read-only': (mmap.MAP_SHARED, mmap.PROT_READ),
}[kind]
mapped = mmap.mmap(fd, 4096, *how)
if kind != 'read-only':
    mapped[0] = 1
os.close(fd)
print('ready'); input()
"""


@pytest.mark.parametrize(("kind", "expected"), [("shared", True), ("private", False), ("read-only", False)])
def test_files_written_through_mappings(tmp_path: Path, kind: str, expected: bool) -> None:
    path = tmp_path / "a name with spaces"
    path.write_bytes(bytes(4096))
    with child(MAPPER, kind, str(path)) as mapper:
        assert (str(path).lstrip("/") in written_through_mappings([mapper.pid])) == expected
    assert written_through_mappings([mapper.pid]) == set()


def test_stores_through_a_mapping_are_found(tree: Path) -> None:
    """Whether or not the file system notes the time."""
    (tree / "mapped").write_bytes(bytes(4096))
    with child(MAPPER, "shared", str(tree / "mapped")) as mapper:
        named = written_through_mappings([mapper.pid])
        always = {str(Path("/", path).relative_to(tree)) for path in named if Path("/", path).is_relative_to(tree)}
        assert "mapped" in found(tree, lambda root: None, always=always).changed
