"""Tests of checkpoint/files/made.py: files and directories that a move made, and their removal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint.files import made
from checkpoint.files.made import FilledDirectory, MadeDirectory, WrittenFile
from checkpoint.host.identity import PathRecord


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "srv/web").mkdir(parents=True)
    (tmp_path / "srv/web/file").write_text("content")
    return tmp_path / "srv"


@pytest.mark.parametrize("whole", [True, False])
def test_a_directory_goes_whole_or_if_it_is_empty(directory: Path, whole: bool) -> None:
    thing = MadeDirectory(path=PathRecord.of(directory), whole=whole)
    for _ in range(2):
        thing.remove()
        assert directory.exists() is not whole


def test_a_directory_that_has_the_name_again_stays(directory: Path) -> None:
    thing = MadeDirectory(path=PathRecord.of(directory), whole=True)
    directory.rename(directory.with_name("old"))
    (directory / "web").mkdir(parents=True)
    thing.remove()
    assert (directory / "web").exists()


def test_a_directory_that_is_somebodys_root_stays(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "is_somebodys_root", lambda path: path == directory)
    MadeDirectory(path=PathRecord.of(directory), whole=True).remove()
    assert (directory / "web/file").exists()


def test_a_directory_that_was_empty_is_emptied(directory: Path) -> None:
    thing = FilledDirectory(path=PathRecord.of(directory))
    for _ in range(2):
        thing.remove()
        assert list(directory.iterdir()) == []


def test_a_file_that_was_not_there_is_removed(directory: Path) -> None:
    thing = WrittenFile.about_to_be(directory / "config.json")
    thing.remove()  # it was never written
    (directory / "config.json").write_text("{}")
    thing.remove()
    assert sorted(os.listdir(directory)) == ["web"]


def test_a_file_that_was_there_is_as_it_was(directory: Path) -> None:
    config = directory / "config.json"
    config.write_bytes(b"\0\xff before")
    config.chmod(0o640)
    os.chown(config, 7, 8)
    thing = WrittenFile.about_to_be(config)
    config.unlink()
    config.write_text("after")
    for _ in range(2):
        thing.remove()
        found = config.stat()
        assert config.read_bytes() == b"\0\xff before"
        assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o640, 7, 8)
    assert sorted(os.listdir(directory)) == ["config.json", "web"]


def test_a_file_in_another_directory_of_the_name_stays(directory: Path) -> None:
    thing = WrittenFile.about_to_be(directory / "config.json")
    directory.rename(directory.with_name("old"))
    directory.mkdir()
    (directory / "config.json").write_text("somebody else's")
    thing.remove()
    assert (directory / "config.json").exists()
