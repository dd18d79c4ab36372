"""Fixtures of the tests of memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.memory import encoding
from migrate.memory.channels import PageChannels
from migrate.memory.encoding import EncodingChoice
from tests.unit.migrate.memory.scene import Scene
from transport.throttle import RateLimit


@pytest.fixture(params=[1, 3])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """Yield a receiver with one page channel, and one with three."""
    scene = Scene(tmp_path, request.param)
    yield scene
    scene.close()


@pytest.fixture
def channels(scene: Scene) -> Iterator[PageChannels]:
    """Yield the source's end of the scene's page channels."""
    channels = PageChannels(scene.streams, EncodingChoice(encoding.AVAILABLE), RateLimit(None))
    yield channels
    channels.close()
