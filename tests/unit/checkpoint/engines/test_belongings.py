"""Tests of checkpoint/engines/belongings.py: the volumes and networks that a container uses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.engines import belongings
from checkpoint.engines.docker import api
from checkpoint.engines.docker.engine import Docker
from checkpoint.engines.podman import store
from checkpoint.engines.podman.engine import Podman
from checkpoint.errors import (
    EngineRefused,
    NotMovable,
)
from tests.unit.helpers.engines import podman_that

pytestmark = pytest.mark.usefixtures("no_engines")


def test_volumes_that_cannot_be_recorded_are_told_of(tmp_path: Path) -> None:
    podman_that(tmp_path, "echo 'Error: database is locked' >&2", "exit 125")
    mount = {"Type": "volume", "Name": "data", "Destination": "/data"}
    with pytest.raises(EngineRefused, match="database is locked"):
        belongings.left("podman", store, {"Mounts": [mount]})


def container_with(*, volume: bool) -> Any:
    mount = {"Type": "volume", "Name": "data", "Destination": "/data"}
    found = {
        **dict.fromkeys(("Config", "Image", "ImageName", "Name", "OCIRuntime"), "x"),
        "HostConfig": {"NetworkMode": "bridge"},
        "NetworkSettings": {"Networks": {} if volume else {"net": {}}},
        "State": {"CgroupPath": "/x"},
        "Mounts": [mount] if volume else [],
    }
    return SimpleNamespace(id="1f", log=None, descriptors=(), engine_state=found)


@pytest.mark.parametrize("engine", [Podman, Docker])
def test_what_the_container_uses_and_the_engine_has_no_more_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: type[Podman | Docker]
) -> None:
    podman_that(tmp_path, "exit 1")
    lists: dict[str, Any] = {"/containers/json": []}
    monkeypatch.setattr(api, "call", lambda _, path, **__: lists.get(path))
    with pytest.raises(EngineRefused, match="has no volume 'data' any more"):
        engine().describe(container_with(volume=True))
    with pytest.raises(EngineRefused, match="has no network 'net' any more"):
        engine().describe(container_with(volume=False))


class OfTwo:
    """A Store that has one volume, `data`, which two containers use."""

    def network(self, name: str) -> dict[str, Any]:
        return {"name": name}

    def volume(self, name: str) -> dict[str, Any]:
        return {"Name": name, "Driver": "local"}

    def users(self, name: str) -> set[str]:
        return {"1f", "2e" * 32}


def test_a_container_whose_volume_another_one_uses_cannot_be_moved() -> None:
    found = {"Id": "1f", "Mounts": [{"Type": "volume", "Name": "data", "Destination": "/data"}]}
    store: Any = OfTwo()
    with pytest.raises(NotMovable, match="volume 'data' is also used by container 2e2e2e2e2e2e"):
        belongings.described("podman", store, found, [])
    store.users = lambda _: {"1f"}
    assert belongings.described("podman", store, found, [])["volumes"] == {
        "/data": {"Name": "data", "Driver": "local"}
    }
