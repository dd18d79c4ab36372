"""Tests of checkpoint/engines/docker/engine.py: which containers docker has and can give away."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.engines.docker import api
from checkpoint.engines.docker import engine as docker
from checkpoint.engines.docker.engine import Docker
from checkpoint.errors import (
    ContainerNotFound,
    EngineRefused,
    NotMovable,
)
from tests.unit.checkpoint.engines.descriptions import changed
from tests.unit.helpers.engines import stopped_docker

pytestmark = pytest.mark.usefixtures("no_engines")


def test_a_docker_that_is_not_there_has_no_container() -> None:
    assert not Docker().exists("web")
    with pytest.raises(ContainerNotFound):
        Docker().inspect("web")


def test_a_docker_that_does_not_answer_cannot_be_asked() -> None:
    stopped_docker()
    for ask in (Docker().exists, Docker().inspect):
        with pytest.raises(EngineRefused, match=r"does not answer on .*Connection refused"):
            ask("web")


def test_a_docker_without_its_socket_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "find_program", lambda _: Path("/usr/sbin/dockerd"))
    with pytest.raises(EngineRefused, match=r"does not answer on .*No such file"):
        Docker().exists("web")


DOCKER: dict[str, Any] = {
    "Name": "/box",
    "Driver": "overlay2",
    "Config": {"Tty": False},
    "HostConfig": {"NetworkMode": "net", "Runtime": "runc"},
    "NetworkSettings": {"Networks": {"net": {}}},
}


@pytest.mark.parametrize("runtime", ["runc", "io.containerd.runc.v2", "migrate"])
def test_a_container_of_any_runc_can_be_moved(runtime: str) -> None:
    assert docker.unmovable(changed(DOCKER, "HostConfig.Runtime", runtime)) is None


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        ("Config.Tty", True, "has a terminal"),
        ("HostConfig.NetworkMode", "host", "the network mode 'host'"),
        ("HostConfig.NetworkMode", "none", "the network mode 'none'"),
        ("HostConfig.NetworkMode", "container:" + "5" * 64, "the network mode 'container:5"),
        ("Driver", "overlayfs", "by 'overlayfs'"),
        ("NetworkSettings.Networks", {"bridge": {}}, "docker's default network"),
        ("NetworkSettings.Networks", {"net": {}, "bridge": {}}, "docker's default network"),
        ("HostConfig.Runtime", "runsc", "run by 'runsc'"),
        ("HostConfig.AutoRemove", True, "--rm"),
    ],
)
def test_a_container_that_cannot_be_moved_says_why(at: str, value: object, said: str) -> None:
    why = docker.unmovable(changed(DOCKER, at, value))
    assert why is not None
    assert why.startswith("container 'box' ")
    assert said in why


def test_a_restart_policy_that_cannot_be_given_back_is_told_with_its_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def call(method: str, path: str, body: Any = None) -> None:
        asked.append(body["RestartPolicy"]["Name"])
        if len(asked) > 1:
            raise EngineRefused("docker does not answer: Connection refused")

    monkeypatch.setattr(api, "call", call)
    policy = {"Name": "on-failure", "MaximumRetryCount": 3}
    container: Any = SimpleNamespace(
        id="1f", name="web", engine_state={"HostConfig": {"RestartPolicy": policy}}
    )
    give_back = docker.Docker().suspend_restart_policy(container)
    with pytest.raises(
        EngineRefused, match=r"docker update --restart on-failure:3 web.*Connection refused"
    ):
        give_back()
    assert asked == ["no", "on-failure"]


def test_a_container_whose_network_another_one_uses_cannot_be_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = [{"Id": "1f", "HostConfig": {"NetworkMode": "net"}}]
    monkeypatch.setattr(api, "call", lambda *_: listed)
    docker.check_not_joined({"Id": "1f", "Name": "/web"})
    listed.append({"Id": "2e" * 32, "HostConfig": {"NetworkMode": "container:1f"}})
    with pytest.raises(NotMovable, match="2e2e2e2e2e2e uses the network of 'web'"):
        docker.check_not_joined({"Id": "1f", "Name": "/web"})
