"""Tests of checkpoint/host/identity.py: what was made is told from what came to have its name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint.host import kernel
from checkpoint.host.identity import PathIdentity, PathRecord
from checkpoint.host.run import run


def test_a_directory_keeps_its_identity_when_it_changes(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    identity = PathIdentity(directory)
    assert identity.is_same()
    (directory / "file").touch()
    directory.chmod(0o700)
    assert identity.is_same()
    identity.close()


def test_an_identity_that_is_closed_or_forgotten_holds_no_descriptor(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for closed in (True, False):
        identity = PathIdentity(tmp_path)
        assert len(os.listdir("/proc/self/fd")) == len(before) + 1
        if closed:
            identity.close()
        del identity
        assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("other", ["nothing", "another", "symlink", "file", "parent gone"])
def test_a_path_that_names_something_else_is_another(tmp_path: Path, other: str) -> None:
    directory = tmp_path / "p/d"
    directory.mkdir(parents=True)
    identity = PathIdentity(directory)
    kept = tmp_path / "kept"
    if other == "parent gone":
        directory.parent.rename(tmp_path / "q")
        (tmp_path / "p").touch()
    else:
        directory.rename(kept)
        if other == "another":
            directory.mkdir()
        elif other == "file":
            directory.touch()
        elif other == "symlink":
            directory.symlink_to(kept)
    assert not identity.is_same()
    identity.close()


def test_inode_numbers_that_are_given_again_do_not_deceive(tmp_path: Path) -> None:
    """While the identity is held, none of many successors is taken for the directory."""
    directory = tmp_path / "d"
    for _ in range(200):
        directory.mkdir()
        identity = PathIdentity(directory)
        directory.rmdir()
        directory.mkdir()
        assert not identity.is_same()
        identity.close()
        directory.rmdir()


def test_a_record_tells_a_directory_from_every_later_one(tmp_path: Path) -> None:
    """Nobody keeps the directory, so that its inode number is given again."""
    directory = tmp_path / "d"
    inodes = set()
    for _ in range(200):
        directory.mkdir()
        record = PathRecord.of(directory)
        assert record.unique
        assert record.is_same()
        directory.rmdir()
        directory.mkdir()
        inodes |= {record.inode, directory.stat().st_ino}
        assert not record.is_same()
        directory.rmdir()
        assert not record.is_same()
    assert len(inodes) < 400


def test_a_record_is_of_a_symlink_itself(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    record = PathRecord.of(tmp_path / "link")
    assert record.is_same()
    assert record.unique != PathRecord.of(tmp_path / "file").unique


@pytest.mark.parametrize("handles", [True, False])
def test_a_namespace_is_known_by_its_handle_or_by_its_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handles: bool
) -> None:
    if not handles:
        monkeypatch.setattr(kernel, "file_handle", lambda _: "")
    path = tmp_path / "net"
    path.touch()
    records = []
    for _ in range(2):
        run(["unshare", "--net", "mount", "--bind", "/proc/self/ns/net", str(path)])
        records.append(PathRecord.of(path))
        assert records[-1].is_same()
        run(["umount", str(path)])
    assert not records[0].is_same()
    assert records[0].unique != records[1].unique
    assert records[0].unique.startswith("mount ") is not handles


def test_a_record_without_anything_unique_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "file_handle", lambda _: "")
    record = PathRecord.of(tmp_path)
    assert (record.unique, record.device) == ("", tmp_path.stat().st_dev)
    assert record.is_same()
