"""Tests of checkpoint/files/changes.py, on real files."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.files.beneath import TreeRoot
from checkpoint.files.changes import (
    TICK_NS,
    Changes,
    Snapshot,
    changes,
    differing,
    listing,
    snapshot,
    written_through_mappings,
)
from checkpoint.files.rsync import PRESERVE

MAPPER = Path(__file__).parent / "programs/mapper.py"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a small tree, old enough that its time stamps say whether something changed."""
    root = tmp_path / "root"
    (root / "etc/deep/er").mkdir(parents=True)
    (root / "var").mkdir()
    (root / "etc/hosts").write_text("localhost")
    (root / "etc/deep/er/file").write_text("deep")
    (root / "var/log").write_text("line 1")
    (root / "link").symlink_to("etc/hosts")
    settle()
    return root


def settle() -> None:
    """Wait until time stamps tell of changes from now on."""
    newest = time.time_ns()
    while time.time_ns() <= newest + 3 * TICK_NS:
        time.sleep(0.001)


def after(root: Path, change: Callable[[], object], always: tuple[str, ...] = ()) -> Changes:
    """Return what a change of a tree is found to be."""
    with TreeRoot(root) as tree:
        before = snapshot(tree)
        change()
        return changes(before, snapshot(tree), always)


def touched(found: Changes) -> set[str]:
    return {path for path, _ in found.directories}


def test_without_a_change_nothing_is_found(root: Path) -> None:
    assert after(root, lambda: None) == Changes(changed=(), removed=(), directories=())


def test_a_modified_file_is_found(root: Path) -> None:
    found = after(root, lambda: (root / "var/log").write_text("line 1, line 2"))
    times = (("var", (root / "var").stat().st_mtime_ns),)  # copying changes it on the target
    assert found == Changes(changed=("var/log",), removed=(), directories=times)


def test_a_file_of_the_same_size_and_time_is_found(root: Path) -> None:
    def change() -> None:
        path = root / "etc/hosts"
        old = path.stat()
        path.write_text("LOCALHOST")
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))

    assert after(root, change).changed == ("etc/hosts",)


def test_changed_modes_are_found(root: Path) -> None:
    def change() -> None:
        (root / "var/log").chmod(0o640)
        (root / "etc").chmod(0o700)

    found = after(root, change)
    times = tuple((path, (root / path).stat().st_mtime_ns) for path in ("", "var"))
    assert found == Changes(changed=("etc", "var/log"), removed=(), directories=times)


def test_an_attribute_of_a_directory_whose_content_changed_too_is_found(root: Path) -> None:
    def change() -> None:
        os.setxattr(root / "var", "user.who", b"me")
        (root / "var/new").write_text("")
        (root / "etc/new").write_text("")

    found = after(root, change)
    assert (found.changed, touched(found)) == (("etc/new", "var", "var/new"), {"", "etc"})


@pytest.mark.parametrize(
    "change",
    [
        lambda root: root.chmod(0o711),
        lambda root: os.chown(root, 1, 2),
        lambda root: os.setxattr(root, "user.who", b"me"),
    ],
)
def test_a_change_of_the_root_itself_is_found(root: Path, change: Callable[[Path], object]) -> None:
    found = after(root, lambda: change(root))
    assert found == Changes(changed=("",), removed=(), directories=())


def test_the_time_of_the_root_is_found(root: Path) -> None:
    found = after(root, lambda: os.utime(root, ns=(1, 1_234_567_890)))
    assert found == Changes(changed=(), removed=(), directories=(("", 1_234_567_890),))


def test_a_removed_file_is_found(root: Path) -> None:
    found = after(root, (root / "var/log").unlink)
    assert (found.changed, found.removed, touched(found)) == ((), ("var/log",), {"var"})


def test_a_renamed_file_is_one_removed_and_one_new(root: Path) -> None:
    found = after(root, lambda: (root / "var/log").rename(root / "var/log.1"))
    assert (found.changed, found.removed, touched(found)) == (("var/log.1",), ("var/log",), {"var"})


def test_a_renamed_directory_comes_with_its_content(root: Path) -> None:
    found = after(root, lambda: (root / "etc/deep").rename(root / "var/deep"))
    assert {"var/deep", "var/deep/er", "var/deep/er/file"} <= {*found.changed, *touched(found)}
    assert found.removed == ("etc/deep", "etc/deep/er", "etc/deep/er/file")


def test_a_file_replaced_by_a_rename_is_found(root: Path) -> None:
    def change() -> None:
        (root / "var/new").write_text("line 2")
        (root / "var/new").rename(root / "var/log")

    assert after(root, change).changed == ("var/log",)


def test_a_directory_that_becomes_a_file_is_removed_with_its_content(root: Path) -> None:
    def change() -> None:
        (root / "etc/deep/er/file").unlink()
        (root / "etc/deep/er").rmdir()
        (root / "etc/deep").rmdir()
        (root / "etc/deep").write_text("flat")

    found = after(root, change)
    assert found.changed == ("etc/deep",)
    assert found.removed == ("etc/deep", "etc/deep/er", "etc/deep/er/file")


def test_a_file_that_becomes_a_directory_is_removed_first(root: Path) -> None:
    def change() -> None:
        (root / "var/log").unlink()
        (root / "var/log").mkdir()
        (root / "var/log/today").write_text("x")

    found = after(root, change)
    assert (found.changed, found.removed) == (("var/log", "var/log/today"), ("var/log",))


def test_a_symlink_that_points_elsewhere_is_found(root: Path) -> None:
    def change() -> None:
        (root / "link").unlink()
        (root / "link").symlink_to("etc/other")

    found = after(root, change)
    assert (found.changed, found.removed) == (("link",), ())


def test_a_symlink_is_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("x")
    found = after(root, lambda: (root / "way").symlink_to(tmp_path / "outside"))
    assert found.changed == ("way",)


def test_a_hardlink_changes_both_names(root: Path) -> None:
    found = after(root, lambda: os.link(root / "var/log", root / "etc/again"))
    assert found.changed == ("etc/again", "var/log")


def test_new_directories_come_parents_first(root: Path) -> None:
    def change() -> None:
        (root / "srv/a/b").mkdir(parents=True)
        (root / "srv/a/b/c").write_text("x")

    assert after(root, change).changed == ("srv", "srv/a", "srv/a/b", "srv/a/b/c")


def test_the_time_of_a_directory_is_found(root: Path) -> None:
    found = after(root, lambda: os.utime(root / "var", ns=(1, 1_234_567_890)))
    assert found == Changes(changed=(), removed=(), directories=(("var", 1_234_567_890),))


def test_a_file_that_may_have_changed_without_a_trace_is_copied(root: Path) -> None:
    assert after(root, lambda: None, ("var/log", "gone/file")).changed == ("var/log",)


def test_a_file_is_copied_under_all_its_names(root: Path) -> None:
    """A mapping has one name, and a store through it need leave no trace."""
    (root / "other").hardlink_to(root / "var/log")
    settle()
    assert after(root, lambda: None, ("var/log",)).changed == ("other", "var/log")
    assert after(root, lambda: None, ("link",)).changed == ("link",)


def test_a_change_just_before_the_snapshot_counts(tmp_path: Path) -> None:
    signature = (0o100644, 1, 1_000, 10_000_000_000, 5, 0, 0, 1)
    files = {"file": signature}
    with TreeRoot(tmp_path) as root:
        for age_ns, expected in ((0, ("file",)), (TICK_NS, ("file",)), (TICK_NS + 1, ())):
            before = Snapshot(root=root, taken_ns=signature[3] + age_ns, files=files, attributes={})
            assert changes(before, before).changed == expected


def test_names_that_are_no_text_are_found(root: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    assert after(root, lambda: (root / name).write_text("x")).changed == (name,)


def test_files_mapped_shared_and_writable_are_found(tmp_path: Path) -> None:
    for name in ("shared one", "private", "read"):
        (tmp_path / name).write_bytes(bytes(4096))
    argv = [sys.executable, "-IS", str(MAPPER), str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"\n"
        found = written_through_mappings([child.pid])
        child.kill()
    assert {path for path in found if path.startswith(str(tmp_path).lstrip("/"))} == {
        str(tmp_path / "shared one").lstrip("/")
    }
    assert written_through_mappings([child.pid]) == set()


def exchange(root: Path, one: str, other: str) -> None:
    (root / one).rename(root / "aside")
    (root / other).rename(root / one)
    (root / "aside").rename(root / other)


def copied(source: Path, target: Path, found: Changes) -> None:
    """Copy changes as a pass does that is given the names of files."""
    for path in reversed(found.removed):
        victim = target / path
        if victim.is_dir() and not victim.is_symlink():
            shutil.rmtree(victim)
        else:
            victim.unlink(missing_ok=True)
    listed = b"".join(os.fsencode(path) + b"\0" for path in found.changed)
    options = ["--ignore-times", "--files-from=-", "--from0", "--no-implied-dirs"]
    subprocess.run(
        ["rsync", *PRESERVE, *options, f"{source}/", f"{target}/"], input=listed, check=True
    )


def content(root: Path) -> dict[str, str]:
    """Return what the file at each path is."""
    found = {}
    for path in root.rglob("*"):
        kind = "link" if path.is_symlink() else "directory" if path.is_dir() else "file"
        found[str(path.relative_to(root))] = kind + (path.read_text() if kind == "file" else "")
    return found


def test_directories_exchanged_while_they_were_copied_and_back_are_found(tmp_path: Path) -> None:
    """Releases are deployed so: directories of equal names, sizes and times have other content."""
    source, target = tmp_path / "source", tmp_path / "target"
    for name, text in (("new", "1"), ("old", "2")):
        (source / name / "deep").mkdir(parents=True)
        (source / name / "deep/file").write_text(text)
        os.utime(source / name / "deep/file", (0, 0))
    (source / "old/d").symlink_to("deep")
    (source / "new/d").mkdir()
    (source / "new/d/inner").write_text("x")
    settle()
    with TreeRoot(source) as tree:
        before = snapshot(tree)
        exchange(source, "new", "old")
        subprocess.run(["cp", "--archive", source, target], check=True)
        exchange(source, "new", "old")
        assert content(source) != content(target)
        with TreeRoot(target) as copy:
            wrong = differing(before, before.files, listing(copy))
        now = snapshot(tree)
        found = changes(before, now, sent=before.files, wrong=wrong)
    assert {"new/deep/file", "old/deep/file", "new/d", "old/d", "new/d/inner"} <= {*found.changed}
    assert wrong.keys() == {"new/d", "old/d", "new/d/inner"}
    (
        target / "old/d/inner"
        # What came and went is removed by its name (migrate/files/trees.py).
    ).unlink()
    copied(source, target, found)
    assert content(source) == content(target)


def test_nothing_differs_of_an_equal_copy(root: Path) -> None:
    os.mkfifo(root / "fifo")
    (root / "no text").write_bytes(b"\xff" * 10)
    with TreeRoot(root) as tree:
        looked_at = snapshot(tree)
        assert differing(looked_at, looked_at.files, listing(tree)) == {}
        assert differing(looked_at, [*looked_at.files, "of another look"], []) == dict.fromkeys(
            looked_at.files, 0
        )


def test_what_differs_goes_again_as_what_it_is(root: Path) -> None:
    with TreeRoot(root) as tree:
        before = snapshot(tree)
        found = changes(
            before, before, wrong={"var": stat.S_IFLNK | 0o777, "link": 0, "gone": stat.S_IFREG}
        )
    assert (found.changed, found.removed) == (("link", "var"), ("var",))
