"""An engine that cannot be asked is not one that has no such container."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.engines import belongings, registry
from checkpoint.engines.docker import api
from checkpoint.engines.docker.engine import Docker
from checkpoint.engines.podman import engine as podman
from checkpoint.engines.podman import store
from checkpoint.engines.podman.engine import Podman
from checkpoint.errors import CommandFailed, ContainerNotFound, EngineRefused
from migrate.errors import NoSuchContainer
from migrate.phases import preflight


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without engines and without locks."""
    monkeypatch.setattr(api, "SOCKET", str(tmp_path / "docker.sock"))
    monkeypatch.setattr(api, "find_program", lambda _: None)
    monkeypatch.setattr(podman, "TRACES", (tmp_path,))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("checkpoint.host.lock.DIRECTORY", tmp_path / "locks")
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def podman_that(tmp_path: Path, *lines: str) -> None:
    """Put a podman on PATH that does this whatever it is asked."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "podman"
    program.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    program.chmod(0o755)


def stopped_docker() -> None:
    """Leave the socket of a dockerd that is not there any more."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(api.SOCKET)


def test_a_docker_that_is_not_there_has_no_container() -> None:
    assert not Docker().exists("web")
    with pytest.raises(ContainerNotFound):
        Docker().inspect("web")


def test_a_docker_that_does_not_answer() -> None:
    stopped_docker()
    for ask in (Docker().exists, Docker().inspect):
        with pytest.raises(EngineRefused, match=r"does not answer on .*Connection refused"):
            ask("web")


def test_a_docker_without_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "find_program", lambda _: Path("/usr/sbin/dockerd"))
    with pytest.raises(EngineRefused, match=r"does not answer on .*No such file"):
        Docker().exists("web")


def test_a_docker_that_hangs_up() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(api.SOCKET)
        listener.listen()

        def hang_up() -> None:
            peer, _ = listener.accept()
            peer.close()  # with what was asked unread: ECONNRESET

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(EngineRefused, match="docker"):
            api.call("GET", "/x")
        thread.join(20)


def test_a_podman_that_says_no(tmp_path: Path) -> None:
    podman_that(tmp_path, "exit 1")
    assert not Podman().exists("web")
    with pytest.raises(ContainerNotFound):
        Podman().inspect("web")


def test_a_podman_that_is_gone_and_has_left_its_files() -> None:
    assert not Podman().exists("web")


def test_a_podman_that_is_broken(tmp_path: Path) -> None:
    podman_that(tmp_path, "echo 'Error: database is locked' >&2", "exit 125")
    with pytest.raises(EngineRefused, match="database is locked"):
        store.has_container("web")
    with pytest.raises(EngineRefused, match="database is locked"):
        Podman().inspect("web")


def test_a_podman_that_cannot_describe_what_it_has(tmp_path: Path) -> None:
    podman_that(
        tmp_path, '[ "$2" = exists ] && exit 0', "echo 'Error: layer not known' >&2", "exit 125"
    )
    with pytest.raises(CommandFailed, match="layer not known"):
        Podman().inspect("web")


@pytest.mark.parametrize("find", [store.network, store.volume, store.image])
def test_a_podman_that_cannot_be_asked_is_not_one_that_lacks_it(
    tmp_path: Path, find: Callable[[str], object]
) -> None:
    with pytest.raises(EngineRefused, match="cannot be asked"):
        find("web")
    podman_that(tmp_path, "echo 'Error: database is locked' >&2", "exit 125")
    with pytest.raises(EngineRefused, match="database is locked"):
        find("web")


@pytest.mark.parametrize("find", [store.network, store.volume, store.image])
def test_what_podman_lacks(tmp_path: Path, find: Callable[[str], object]) -> None:
    podman_that(tmp_path, "exit 1")
    assert find("web") is None


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


NETWORK = {"name": "net", "driver": "bridge"}
VOLUME = {"Name": "data", "Driver": "local"}


@pytest.mark.parametrize(
    "ask",
    [
        lambda at: store.remove_container("1f"),
        lambda at: store.users("data"),
        lambda at: store.create_network(NETWORK),
        lambda at: store.remove_network("1f"),
        lambda at: store.create_volume(VOLUME),
        lambda at: store.remove_volume("data"),
        lambda at: store.layers_of_all_images(),
        lambda at: store.export_image("1f", frozenset(), at),
        lambda at: store.load_image(at, "1f", "name"),
    ],
)
def test_both_engines_refuse_with_the_same_error(
    tmp_path: Path, ask: Callable[[Path], object]
) -> None:
    podman_that(tmp_path, "echo 'Error: database is locked' >&2", "exit 125")
    with pytest.raises(EngineRefused, match="database is locked"):
        ask(tmp_path)


def test_the_others_are_asked_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_docker()
    podman_that(tmp_path, "exit 0")
    monkeypatch.setattr(registry, "ENGINES", {"docker": Docker, "podman": Podman})
    assert preflight.choose_engine(None, "web").name == "podman"


def test_who_could_not_be_asked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_docker()
    podman_that(tmp_path, "exit 1")
    for module in (registry, preflight):
        monkeypatch.setattr(module, "ENGINES", {"docker": Docker, "podman": Podman})
    with pytest.raises(
        NoSuchContainer,
        match=r"'web' on this host \(podman could be asked; docker does not answer",
    ):
        preflight.choose_engine(None, "web")
