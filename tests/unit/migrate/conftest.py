"""Fixtures of the tests of `migrate`."""

from collections.abc import Iterator

import pytest

from tests.unit.migrate.answering import Target


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    yield target
    target.close()
