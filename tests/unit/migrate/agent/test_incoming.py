"""Tests of migrate/agent/incoming.py: the target's half of a migration excludes others."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from checkpoint.host import lock
from migrate.agent import incoming
from migrate.agent.incoming import Incoming
from migrate.limits import Limits
from migrate.wire import protocol


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
    hello = protocol.Hello(
        version=protocol.PROTOCOL_VERSION,
        migration_id=f"{name:0>12}",
        source="alpha",
        engine="docker",
        container_name=name,
        traces=False,
    )
    agent = Incoming(hello, print, Limits())
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
