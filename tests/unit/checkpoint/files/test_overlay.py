"""Tests of checkpoint/files/overlay.py, on layers made by hand and on a real overlay."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.files.beneath import TreeRoot
from checkpoint.files.changes import Changes, changes, snapshot
from checkpoint.files.overlay import content, translated
from tests.unit.checkpoint.files.mounted_overlay import (
    OLD_NS,
    Mounted,
    change_again,
    change_at_first,
    mount,
    settle,
    tree,
    unmount,
)


class Layers:
    """A writable layer, and what the overlay shows, as far as a test needs it."""

    def __init__(self, root: Path) -> None:
        self.upper, self.shown = root / "upper", root / "shown"
        self.upper.mkdir()
        self.shown.mkdir()

    def content(self) -> Changes:
        """Return the changes that the layer is, in what the overlay shows."""
        with TreeRoot(self.upper) as upper, TreeRoot(self.shown) as shown:
            return content(snapshot(upper), shown)

    def after(self, change: Callable[[], object]) -> Changes:
        """Return what a change of the layer is found to be, which was made some time ago."""
        settle()
        with TreeRoot(self.upper) as upper, TreeRoot(self.shown) as shown:
            before = snapshot(upper)
            change()
            return translated(changes(before, snapshot(upper, attributes=False)), before, shown)


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    return Layers(tmp_path)


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def mark(path: Path, name: str, value: bytes = b"y") -> None:
    os.setxattr(path, f"trusted.overlay.{name}", value)


def opaque(path: Path) -> Path:
    path.mkdir()
    mark(path, "opaque")
    return path


def told(found: Changes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the changed and the removed paths below the root."""
    return tuple(path for path in found.changed if path), found.removed


def test_an_empty_layer_changes_the_root_only(layers: Layers) -> None:
    (layers.shown / "lower").touch()
    assert layers.content() == Changes(changed=("",), removed=(), directories=())


def test_an_attribute_of_the_root_hides_nothing(layers: Layers) -> None:
    mark(layers.upper, "opaque")
    (layers.shown / "lower").touch()
    assert layers.content() == Changes(changed=("",), removed=(), directories=())


def test_a_change_of_the_root_itself_is_found(layers: Layers) -> None:
    assert layers.after(lambda: layers.upper.chmod(0o711)).changed == ("",)


def test_all_files_of_a_layer_come_parents_first(layers: Layers) -> None:
    (layers.upper / "etc/deep").mkdir(parents=True)
    (layers.upper / "etc/deep/file").touch()
    (layers.upper / "etc.conf").symlink_to("etc")
    os.mkfifo(layers.upper / "fifo")
    assert told(layers.content()) == (("etc", "etc.conf", "etc/deep", "etc/deep/file", "fifo"), ())


def test_whiteouts_are_removals(layers: Layers) -> None:
    (layers.upper / "etc").mkdir()
    whiteout(layers.upper / "etc/gone")
    (layers.upper / "empty").touch()
    mark(layers.upper / "empty", "whiteout")
    assert told(layers.content()) == (("etc",), ("empty", "etc/gone"))


def test_files_that_resemble_whiteouts_are_files(layers: Layers) -> None:
    os.mknod(layers.upper / "null", stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(layers.upper / "block", stat.S_IFBLK, os.makedev(0, 0))
    (layers.upper / "empty").touch()
    (layers.upper / "full").write_text("x")
    mark(layers.upper / "full", "whiteout")
    assert told(layers.content()) == (("block", "empty", "full", "null"), ())


def test_what_an_opaque_directory_hides_is_removed_first(layers: Layers) -> None:
    (opaque(layers.upper / "var") / "log").touch()
    (layers.upper / "merged").mkdir()
    mark(
        layers.upper / "merged",
        "opaque",
        b"x",
        # The value "x" hides nothing: the directory may have whiteouts that are attributes.
    )
    assert told(layers.content()) == (("merged", "var", "var/log"), ("var",))


def test_a_symlink_to_an_opaque_directory_is_a_symlink(layers: Layers) -> None:
    opaque(layers.upper / "var")
    (layers.upper / "way").symlink_to("var")
    assert told(layers.content()) == (("var", "way"), ("var",))


def test_a_renamed_directory_comes_with_all_that_it_shows(layers: Layers, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").touch()
    (layers.upper / "new").mkdir()
    mark(layers.upper / "new", "redirect", b"/old")
    (layers.upper / "new/own").touch()
    whiteout(layers.upper / "new/gone")
    whiteout(layers.upper / "old")
    (layers.shown / "new/deep/er").mkdir(parents=True)
    (layers.shown / "new/own").touch()
    (layers.shown / "new/deep/er/lower").touch()
    (layers.shown / "new/way").symlink_to(tmp_path / "outside")
    (layers.shown / "other").touch()
    assert told(layers.content()) == (
        ("new", "new/deep", "new/deep/er", "new/deep/er/lower", "new/own", "new/way"),
        ("new", "new/gone", "old"),
    )


def test_a_file_that_goes_after_the_snapshot_is_no_removal(layers: Layers) -> None:
    (layers.upper / "file").touch()
    with TreeRoot(layers.upper) as upper, TreeRoot(layers.shown) as shown:
        before = snapshot(upper)
        (layers.upper / "file").unlink()
        assert content(before, shown).removed == ()


def test_without_a_change_nothing_is_found(layers: Layers) -> None:
    (opaque(layers.upper / "var") / "log").touch()
    whiteout(layers.upper / "gone")
    assert layers.after(lambda: None) == Changes(changed=(), removed=(), directories=())


def test_changed_and_removed_files_are_found(layers: Layers) -> None:
    (layers.upper / "log").touch()
    (layers.upper / "temporary").touch()

    def change() -> None:
        (layers.upper / "log").write_text("line")
        (layers.upper / "temporary").unlink()

    assert told(layers.after(change)) == (("log",), ("temporary",))


def test_an_opaque_directory_that_was_there_is_not_removed(layers: Layers) -> None:
    var = opaque(layers.upper / "var")
    (var / "kept").touch()

    def change() -> None:
        var.chmod(0o700)
        (var / "new").touch()

    assert told(layers.after(change)) == (("var", "var/new"), ())


def test_a_new_file_only_touches_its_directory(layers: Layers) -> None:
    var = opaque(layers.upper / "var")

    def change() -> None:
        (var / "new").touch()
        os.utime(var, ns=(1, 123_456_789))

    found = layers.after(change)
    assert found == Changes(changed=("var/new",), removed=(), directories=(("var", 123_456_789),))


def test_a_directory_made_again_is_removed_first(layers: Layers) -> None:
    (layers.upper / "var").mkdir()
    (layers.upper / "var/mine").touch()

    def change() -> None:
        (opaque(layers.upper / "other") / "new").touch()
        shutil.rmtree(layers.upper / "var")
        (layers.upper / "other").rename(layers.upper / "var")

    assert told(layers.after(change)) == (("var", "var/new"), ("var", "var/mine"))


def test_a_directory_made_again_after_it_was_removed_is_removed_first(layers: Layers) -> None:
    whiteout(layers.upper / "var")

    def change() -> None:
        (layers.upper / "var").unlink()
        opaque(layers.upper / "var")

    assert told(layers.after(change)) == (("var",), ("var",))


def test_a_directory_made_again_with_the_same_inode_number_is_removed_first(layers: Layers) -> None:
    (layers.upper / "var").mkdir()
    assert told(layers.after(lambda: mark(layers.upper / "var", "opaque"))) == (("var",), ("var",))


def test_a_directory_made_again_around_what_was_in_it_comes_with_that(layers: Layers) -> None:
    (layers.upper / "var").mkdir()
    (layers.upper / "var/cache").mkdir()
    (layers.upper / "var/cache/file").touch()
    (layers.shown / "var/cache").mkdir(parents=True)
    (layers.shown / "var/cache/file").touch()

    def change() -> None:
        opaque(layers.upper / "new")
        (layers.upper / "var/cache").rename(layers.upper / "new/cache")
        (layers.upper / "var").rmdir()
        (layers.upper / "new").rename(layers.upper / "var")

    found = layers.after(change)
    assert {"var", "var/cache", "var/cache/file"} <= set(found.changed)
    assert found.removed == ("var",)


def test_a_removed_file_is_found(layers: Layers) -> None:
    (layers.upper / "file").touch()

    def change() -> None:
        (layers.upper / "file").unlink()
        whiteout(layers.upper / "file")

    assert told(layers.after(change)) == ((), ("file",))


def test_a_file_made_again_is_found(layers: Layers) -> None:
    whiteout(layers.upper / "file")

    def change() -> None:
        (layers.upper / "file").unlink()
        (layers.upper / "file").touch()

    assert layers.after(change).changed == ("file",)


def test_a_removed_file_of_a_lower_layer_is_found(layers: Layers) -> None:
    def change() -> None:
        (layers.upper / "etc").mkdir()
        whiteout(layers.upper / "etc/file")

    assert told(layers.after(change)) == (("etc",), ("etc/file",))


def test_a_removed_directory_is_found_with_its_content(layers: Layers) -> None:
    (layers.upper / "var").mkdir()
    (layers.upper / "var/file").touch()

    def change() -> None:
        shutil.rmtree(layers.upper / "var")
        whiteout(layers.upper / "var")

    assert told(layers.after(change)) == ((), ("var", "var/file"))


def test_a_directory_renamed_since_comes_with_all_that_it_shows(layers: Layers) -> None:
    (layers.shown / "new").mkdir()
    (layers.shown / "new/lower").touch()

    def change() -> None:
        (layers.upper / "new").mkdir()
        mark(layers.upper / "new", "redirect", b"/old")
        whiteout(layers.upper / "old")

    assert told(layers.after(change)) == (("new", "new/lower"), ("new", "old"))


def test_a_directory_renamed_before_does_not_come_again(layers: Layers) -> None:
    (layers.upper / "new").mkdir()
    mark(layers.upper / "new", "redirect", b"/old")
    (layers.shown / "new").mkdir()
    (layers.shown / "new/lower").touch()
    assert told(layers.after(lambda: (layers.upper / "new").chmod(0o700))) == (("new",), ())


@pytest.fixture(params=["redirect_dir=off", "redirect_dir=on"])
def mounted(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Mounted]:
    with contextlib.ExitStack() as undo:
        mount("-t", "tmpfs", "test", str(tmp_path))
        undo.callback(unmount, tmp_path)
        yield Mounted(tmp_path, request.param)


def test_a_copy_follows_changes_through_a_real_overlay(mounted: Mounted) -> None:
    assert tree(mounted.copy) == tree(mounted.merged)
    change_at_first(mounted.merged)
    settle()
    with TreeRoot(mounted.upper) as upper, TreeRoot(mounted.merged) as merged:
        before = snapshot(upper)
        mounted.apply(content(before, merged))
        assert tree(mounted.copy) == tree(mounted.merged)
        change_again(mounted.merged)
        found = changes(before, snapshot(upper, attributes=False))
        mounted.apply(translated(found, before, merged))
    assert tree(mounted.copy) == tree(mounted.merged)
    assert (mounted.copy / "srv").stat().st_mtime_ns == OLD_NS + 7 * 10**9
