"""Fixtures of the tests of memory."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from migrate.memory import encoding
from migrate.memory.channels import PageChannels
from migrate.memory.encoding import EncodingChoice
from tests.unit.migrate.memory.dumping import Session
from tests.unit.migrate.memory.scene import Scene
from transport.throttle import RateLimit


@pytest.fixture(params=[1, 3])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """Yield a receiver with one page channel, and one with three."""
    scene = Scene(tmp_path, request.param)
    yield scene
    scene.close()


@pytest.fixture
def session() -> Iterator[Callable[..., Session]]:
    """Yield a function that makes sessions of CRIU, which are closed with the test."""
    with contextlib.ExitStack() as stack:

        def make(*found: Any, **options: Any) -> Session:
            return stack.enter_context(contextlib.closing(Session(*found, **options)))

        yield make


@pytest.fixture
def channels(scene: Scene) -> Iterator[PageChannels]:
    """Yield the source's end of the scene's page channels."""
    channels = PageChannels(scene.streams, EncodingChoice(encoding.AVAILABLE), RateLimit(None))
    yield channels
    channels.close()
