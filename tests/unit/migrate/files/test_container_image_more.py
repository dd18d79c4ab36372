"""migrate/files/container_image.py: an image is written out, sent, and loaded; nothing of it stays on the source."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.errors import EngineRefused
from checkpoint.files.rsync import Rsync
from migrate.agent.plug_command import IMAGE
from migrate.errors import AgentFailed
from migrate.files import container_image
from migrate.files.container_image import send_image
from migrate.wire import protocol
from tests.unit.joined import Joined

LAYERS = {"1a": 10, "2b": 20_000, "manifest.json": 7}


class Engine:
    """Writes out an image whose layers are files; those that are there already are left out."""

    def __init__(self, outgoing: Path) -> None:
        self._outgoing = outgoing
        self.refuses = False

    def export_image(self, container: Any, there: frozenset[str], directory: Path) -> None:
        assert directory.parent == self._outgoing
        assert stat.S_IMODE(self._outgoing.stat().st_mode) == 0o700
        if self.refuses:
            raise EngineRefused("no space left")
        for name, size in LAYERS.items():
            if name not in there:
                (directory / name).write_bytes(bytes(size))


class Agent:
    """The target's agent, which takes files into a directory when it was asked to."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.failure: Exception | None = None

    def request(self, message: Any) -> None:
        self.asked.append(message)
        if self.failure is not None:
            raise self.failure


class Tunnel:
    """Leads to a directory of this host."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.keys: list[str | None] = []

    def rsync(self, tree: int, key: str | None) -> Rsync:
        self.keys.append(key)
        return Rsync(tree, Joined(self._target, self._target).carry)


@pytest.fixture
def outgoing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where images are written out; nothing is left there by any test."""
    path = tmp_path / "state/outgoing"
    monkeypatch.setattr(container_image, "OUTGOING_IMAGES", path)
    yield path
    assert list(path.iterdir()) == []


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def sent(engine: Engine, agent: Agent, target: Path, *there: str) -> int:
    container: Any = SimpleNamespace(engine_state={"Image": f"sha256:{'ff' * 32}"})
    tunnel: Any = Tunnel(target)
    parts: Any = (engine, container, frozenset(there), agent, tunnel)
    count = send_image(*parts)
    assert tunnel.keys == [IMAGE]
    return count


def test_an_image_arrives_without_the_layers_that_are_there(outgoing: Path, target: Path) -> None:
    agent = Agent()
    assert sent(Engine(outgoing), agent, target, "1a") > 20_000
    sizes = {path.name: path.stat().st_size for path in target.iterdir()}
    assert sizes == {"2b": 20_000, "manifest.json": 7}
    assert agent.asked == [
        protocol.AwaitContainerImage(key="ff" * 32),
        protocol.LoadContainerImage(),
    ]


def test_an_engine_that_cannot_write_it_out(outgoing: Path, target: Path) -> None:
    engine, agent = Engine(outgoing), Agent()
    engine.refuses = True
    with pytest.raises(EngineRefused, match="no space left"):
        sent(engine, agent, target)
    assert agent.asked == []


def test_an_agent_that_does_not_wait_for_it(outgoing: Path, target: Path) -> None:
    agent = Agent()
    agent.failure = AgentFailed("EngineRefused", "no such image", ())
    with pytest.raises(AgentFailed):
        sent(Engine(outgoing), agent, target)
    assert list(target.iterdir()) == []
