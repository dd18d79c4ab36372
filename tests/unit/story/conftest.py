"""The stage is one for all migrations of a test run, because setting it takes the longest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.host import paths
from migrate import logs
from migrate.journal import book
from migrate.phases import plan
from tests.unit.helpers.unguarded import Unguarded
from tests.unit.story.stage import Stage, stage


@pytest.fixture(scope="package")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("story")) as found:
        yield found


@pytest.fixture(autouse=True)
def _unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "Guardian", Unguarded)


@pytest.fixture(autouse=True)
def journals(theatre: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let each host keep its journals at its own paths for the test, and yield those on disk."""
    directories = {"DIRECTORY": paths.STATE / "journal", "RAM": paths.RUN / "journal"}
    for name, directory in directories.items():
        monkeypatch.setattr(book, name, directory)
    yield directories["DIRECTORY"]
    for host in (theatre.source, theatre.target):
        for directory in directories.values():
            shutil.rmtree(host.path(str(directory)), ignore_errors=True)


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the logs of failed migrations in a directory of the test, and return its path."""
    monkeypatch.setattr(logs, "DIRECTORY", tmp_path / "kept")
    return tmp_path / "kept"
