"""Fixtures of the tests of engines."""

from pathlib import Path

import pytest

from checkpoint.engines.base import MARKER


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a bundle that a migration has left behind."""
    (tmp_path / "bundle/rootfs/data").mkdir(parents=True)
    (tmp_path / "bundle" / MARKER).touch()
    return tmp_path / "bundle"
