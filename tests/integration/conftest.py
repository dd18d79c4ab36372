"""Fixtures of the integration tests."""

from collections.abc import Iterator

import pytest

from tests.rig import Container, Redis
from tests.rig.clients import Client


@pytest.fixture
def client(redis: Redis[Container]) -> Iterator[Client]:
    """A client whose connection must live through the test and lose nothing."""
    with redis.client() as client:
        yield client
        seen = client.finish()
    assert seen["error"] is None
    assert seen["contiguous"]
