"""Fixtures of the tests of `transport`."""

from pathlib import Path

import pytest

from tests.unit.transport.host_keys import Keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)
