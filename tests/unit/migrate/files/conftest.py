"""Fixtures of the tests of files."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.host import ram_directory
from tests.unit.migrate.files.hosts import Hosts


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """Yield a source and a target on this host, whose directory of the tool is the test's own."""
    monkeypatch.setattr(ram_directory, "RUN", tmp_path / "run")
    (tmp_path / "run").mkdir()
    with contextlib.ExitStack() as tidy:
        yield Hosts(tmp_path, tidy)
