"""Tests of checkpoint/files/openings.py, on a tmpfs: stores through mappings that are gone."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.files.beneath import TreeRoot
from checkpoint.files.changes import snapshot
from checkpoint.files.openings import Openings


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], check=True)
    for name in ("a", "b", "in/c", "in/d", "e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"first")
    os.link(tmp_path / "in/d", tmp_path / "other name of d")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def store(path: Path, text: bytes = b"later") -> None:
    """Store to a file by a mapping that exists no longer than that takes.

    The page is read first: a store to a page that is there leaves no trace.
    """
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        assert len(mapping[:5]) == len(text)
        mapping[:5] = text


@contextlib.contextmanager
def copied(
    tree: Path, during: Callable[[], None] = lambda: None
) -> Iterator[Callable[[], list[str]]]:
    """Copy a tree, and yield the function that returns the files that may differ since then."""
    with TreeRoot(tree) as root, contextlib.closing(Openings(root)) as openings:
        before = snapshot(root)
        for path in tree.rglob("*"):
            if path.is_file():
                path.read_bytes()
        during()
        openings.copied([os.getpid()])
        yield lambda: sorted(openings.since(before))


def test_without_an_opening_no_file_may_differ(tree: Path) -> None:
    with copied(tree) as since:
        assert since() == []


def test_a_store_through_a_mapping_is_found(tree: Path) -> None:
    with copied(tree) as since:
        before = os.stat(tree / "in/c")
        store(tree / "in/c")
        assert os.stat(tree / "in/c").st_mtime_ns == before.st_mtime_ns
        assert since() == ["in/c"]


def test_a_file_is_found_under_both_its_names(tree: Path) -> None:
    with copied(tree) as since:
        store(tree / "other name of d")
        assert since() == ["in/d", "other name of d"]


def test_a_store_during_the_copy_is_found(tree: Path) -> None:
    with copied(tree, lambda: store(tree / "a")) as since:
        assert since() == ["a"]


def test_a_file_that_was_open_before_is_found(tree: Path) -> None:
    with (tree / "b").open("r+b") as file, copied(tree) as since:
        with mmap.mmap(file.fileno(), 0) as mapping:
            mapping[:5] = b"later"
        assert since() == ["b"]


def test_a_file_that_was_mapped_before_is_found(tree: Path) -> None:
    with (tree / "e").open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    with copied(tree) as since:
        mapping[:5] = b"later"
        mapping.close()
        assert since() == ["e"]


def test_a_full_queue_says_nothing_of_any_file(tree: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with copied(tree) as since:
        for _ in range(most // 2 + 1):  # equal events in a row are one
            for name in ("a", "b"):
                os.close(os.open(tree / name, os.O_RDONLY))
        assert since() == ["a", "b", "e", "in/c", "in/d", "other name of d"]
