"""Fixtures of the unit tests."""

from collections.abc import Iterator

import pytest

from tests.unit.obedient import Child


@pytest.fixture
def child() -> Iterator[Child]:
    """A process that does what it is told; it ends with the test."""
    child = Child()
    yield child
    child.end()
