"""One stage for all moves of a test run: setting it takes longer than a move."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate import logs
from tests.unit.story.stage import Stage, stage


@pytest.fixture(scope="package")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("story")) as found:
        yield found


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where logs of a move that failed are kept."""
    monkeypatch.setattr(logs, "DIRECTORY", tmp_path / "kept")
    return tmp_path / "kept"
