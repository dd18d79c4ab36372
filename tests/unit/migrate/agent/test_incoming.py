"""Tests of migrate/agent/incoming.py: the target's half of a migration excludes others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.errors import ImageError
from checkpoint.host import lock
from checkpoint.network import link
from migrate.agent import arriving_image, incoming
from migrate.agent.incoming import Incoming
from migrate.files import tree_door
from migrate.limits import Limits
from migrate.wire import protocol
from migrate.wire.values import OwnAddress, Station
from tests.unit.helpers.hello import hello


class Engine:
    """An engine whose containers have volumes."""

    name = "docker"

    def __init__(self, *volumes: str) -> None:
        self._volumes = volumes

    def arrival(self, *_: Any) -> Engine:
        return self

    def volumes(self) -> list[str]:
        return list(self._volumes)

    def objections(self) -> list[str]:
        return ["its own"]

    def layers_there(self) -> None:
        return None


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RUN", tmp_path)
    monkeypatch.setattr(lock, "DIRECTORY", tmp_path / "locks")


def arriving(
    monkeypatch: pytest.MonkeyPatch, name: str, *volumes: str
) -> tuple[Incoming, list[str]]:
    """Return the agent of a container on its way in, and the objections to the container."""
    monkeypatch.setattr(incoming, "engine_named", lambda _: Engine(*volumes))
    agent = Incoming(hello(name, engine="docker"), print, Limits())
    [examined] = agent.handle(protocol.Examine(description={}))
    assert isinstance(examined, protocol.Examined)
    return agent, list(examined.objections)


def test_one_migration_at_a_time_brings_the_content_of_a_volume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with contextlib.ExitStack() as stack:
        first, objections = arriving(monkeypatch, "a", "data", "logs")
        stack.callback(first.close)
        assert objections == ["its own"]
        second, objections = arriving(monkeypatch, "b", "data", "more")
        assert len(objections) == 2
        assert objections[0].startswith(
            "volume 'data' is brought by another move: migration 00000000000a from alpha"
        )
        second.close()
        third, objections = arriving(monkeypatch, "volume-data")
        third.close()
        assert objections == ["its own"], "a container is no volume"
    last, objections = arriving(monkeypatch, "c", "data", "more")
    last.close()
    assert objections == ["its own"]


KEY = "ff" * 32


class Loading:
    """An engine that loads an image from a directory, if it is whole."""

    name = "docker"

    def __init__(self) -> None:
        self.loaded: list[Path] = []

    def arrival(self, *_: Any) -> Loading:
        return self

    def volumes(self) -> list[str]:
        return []

    def objections(self) -> list[str]:
        return []

    def layers_there(self) -> list[str]:
        return []

    def load_image(self, directory: Path) -> None:
        if not (directory / "manifest.json").exists():
            raise ImageError("it is not whole")
        self.loaded.append(directory)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loading:
    """Return the target's only engine. All that the agent makes is in a directory of the test."""
    engine = Loading()
    monkeypatch.setattr(incoming, "engine_named", lambda _: engine)
    monkeypatch.setattr(arriving_image, "INCOMING_IMAGES", tmp_path / "images")
    monkeypatch.setattr(tree_door, "RUN", tmp_path / "run")
    monkeypatch.setattr(lock, "RUN", tmp_path)
    monkeypatch.setattr(lock, "DIRECTORY", tmp_path / "locks")
    return engine


Waiting = Callable[[str], Incoming]


@pytest.fixture
def waiting(engine: Loading) -> Iterator[Waiting]:
    """Yield a function that makes an agent for a container, which waits for its image."""
    with contextlib.ExitStack() as stack:

        def make(name: str) -> Incoming:
            agent = Incoming(hello(name, engine="docker"), print, Limits())
            stack.callback(agent.close)
            agent.handle(protocol.Examine(description={}))
            agent.handle(protocol.AwaitContainerImage(key=KEY))
            return agent

        yield make


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_an_image_that_was_loaded_leaves_no_files(
    engine: Loading, waiting: Waiting, tmp_path: Path
) -> None:
    agent = waiting("a")
    assert names(tmp_path / "images") == [KEY]
    (tmp_path / "images" / KEY / "manifest.json").touch()
    assert list(agent.handle(protocol.LoadContainerImage())) == [protocol.Done()]
    assert engine.loaded == [tmp_path / "images" / KEY]
    assert names(tmp_path / "images") == []


def test_an_image_that_is_not_whole_stays_for_the_next_move(
    waiting: Waiting, tmp_path: Path
) -> None:
    agent = waiting("a")
    (tmp_path / "images" / KEY / "layer").touch()
    with pytest.raises(ImageError):
        agent.handle(protocol.LoadContainerImage())
    agent.close()
    assert names(tmp_path / "images" / KEY) == ["layer"]


def test_of_two_moves_that_bring_an_image_each_has_its_own_files(
    engine: Loading, waiting: Waiting, tmp_path: Path
) -> None:
    waiting("a")
    second = waiting("b")
    assert names(tmp_path / "images") == [KEY, f"{KEY}-{'b':0>12}"]
    (tmp_path / "images" / f"{KEY}-{'b':0>12}" / "manifest.json").touch()
    second.handle(protocol.LoadContainerImage())
    assert names(tmp_path / "images") == [KEY], "the first still fills its own"


def test_only_another_station_that_has_an_address_is_told(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only bridges that are there are asked, and the container's own answer does not count."""
    asked: list[tuple[str, str]] = []
    own, other = "02:00:00:00:00:01", "02:00:00:00:00:09"

    def stations(address: str, bridge: str) -> set[str]:
        asked.append((address, bridge))
        return {own, other}

    monkeypatch.setattr(link, "stations_using", stations)
    addresses = (OwnAddress("10.1.0.2", own, "lo"), OwnAddress("10.1.0.3", own, "no-bridge"))
    [answer] = waiting("a").handle(protocol.CheckAddresses(addresses=addresses))
    assert isinstance(answer, protocol.AddressesFound)
    assert answer.taken == (Station("10.1.0.2", other),)
    assert asked == [("10.1.0.2", "lo")]
