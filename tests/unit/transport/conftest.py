"""Fixtures of the tests of `transport`."""

from pathlib import Path

import pytest

from tests.unit.transport.host_keys import Keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Return the maker of keys and certificates."""
    return Keys(tmp_path)
