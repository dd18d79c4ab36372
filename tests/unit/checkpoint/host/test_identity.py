"""Tests of checkpoint/host/identity.py: what was made is told from what came to have its name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint.host.identity import LinkIdentity, PathIdentity, RecordIdentity
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


def test_a_link_of_the_same_name_is_another() -> None:
    name = f"t{os.getpid() % 100000}"
    run(["ip", "link", "add", name, "type", "bridge"])
    try:
        identity = LinkIdentity(name)
        assert identity.is_same()
        run(["ip", "link", "delete", name])
        assert not identity.is_same()
        run(["ip", "link", "add", name, "type", "bridge"])
        assert not identity.is_same()
    finally:
        run(["ip", "link", "delete", name])
    with pytest.raises(OSError, match="no interface with this name"):
        LinkIdentity(name)


def test_a_record_is_the_same_as_long_as_it_says_the_same() -> None:
    records: list[str | None] = ["2026-01-01", "2026-01-01", "2026-01-02", None]
    identity = RecordIdentity(lambda: records.pop(0))
    assert [identity.is_same() for _ in range(3)] == [True, False, False]
    assert not RecordIdentity(lambda: None).is_same()
