"""Tests of checkpoint/engines/docker/engine.py: which containers docker has and can give away."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines import left_behind
from checkpoint.engines.base import ROOTFS, Tree
from checkpoint.engines.docker import api, engine, store
from checkpoint.engines.docker import engine as docker
from checkpoint.engines.docker.engine import Docker
from checkpoint.engines.docker.incoming import IncomingDockerContainer
from checkpoint.errors import (
    ContainerNotFound,
    ContainerNotRunning,
    DataInvalid,
    EngineRefused,
    NotMovable,
)
from checkpoint.undo import Made, Undo
from tests.unit.checkpoint.engines.descriptions import changed
from tests.unit.checkpoint.engines.docker.dockerd import Dockerd
from tests.unit.checkpoint.engines.runtimes import ID, Runtime
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


def test_a_container_whose_network_another_one_uses_cannot_be_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = [{"Id": "1f", "HostConfig": {"NetworkMode": "net"}}]
    monkeypatch.setattr(api, "call", lambda *_: listed)
    docker.check_not_joined({"Id": "1f", "Name": "/web"})
    listed.append({"Id": "2e" * 32, "HostConfig": {"NetworkMode": "container:1f"}})
    with pytest.raises(NotMovable, match="2e2e2e2e2e2e uses the network of 'web'"):
        docker.check_not_joined({"Id": "1f", "Name": "/web"})


VOLUME = {
    "Name": "data",
    "Driver": "local",
    "Options": None,
    "Labels": None,
    "CreatedAt": "2024-01-01T00:00:00Z",
}
NETWORK = {"Name": "net", "IPAM": {"Config": None}}
ENDPOINT = {"IPAddress": "10.1.0.2", "GlobalIPv6Address": "", "MacAddress": "02:00:00:00:00:01"}


def container(**changes: Any) -> dict[str, Any]:
    """Return a container as docker describes it."""
    mount = {"Type": "volume", "Name": "data", "Driver": "local", "Destination": "/data"}
    return {
        "Id": ID,
        "Name": "/box",
        "Driver": "overlay2",
        "Image": "sha256:ff",
        "LogPath": "/logs/box.log",
        "State": {"Status": "running", "Pid": 0},
        "Config": {"Tty": False, "Image": "redis"},
        "HostConfig": {
            "NetworkMode": "net",
            "Runtime": "runc",
            "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
            "LogConfig": {"Type": "json-file"},
        },
        "NetworkSettings": {"Networks": {"net": ENDPOINT}, "SandboxKey": "/run/netns/box"},
        "Mounts": [{**mount, "Source": "/volumes/data"}],
        "GraphDriver": {"Data": {"MergedDir": "/merged", "UpperDir": "/upper"}},
        **changes,
    }


@pytest.fixture
def beneath(known: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """Return the runc beneath docker, which has the container."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(engine, "STATE", str(tmp_path / "run"))
    runtime = Runtime(tmp_path, "runc", tmp_path / "run/runtime-runc/moby")
    runtime.has("state.json", {"config": {"cgroups": {}}, "external_descriptors": ["/dev/null"]})
    return runtime


@pytest.fixture
def known(docker: Dockerd) -> None:
    docker.containers["box"] = container()
    docker.networks["net"] = NETWORK
    docker.volumes["data"] = VOLUME
    docker.images["redis"] = {"Id": "sha256:ff", "RootFS": {"Layers": ["sha256:1a"]}}


def test_a_running_container_is_described(beneath: Runtime) -> None:
    assert Docker().exists("box")
    found = Docker().inspect("box")
    assert (found.id, found.name, found.pid) == (ID, "box", 4242)
    assert found.trees == (
        Tree(destination=ROOTFS, root=Path("/merged"), layer=Path("/upper")),
        Tree(destination="/data", root=Path("/volumes/data")),
    )
    assert found.log == Path("/logs/box.log")
    assert found.network_namespace == "/run/netns/box"
    assert found.engine_network


def test_a_container_may_have_no_log(beneath: Runtime, docker: Dockerd) -> None:
    docker.containers["box"] = container(LogPath="")
    assert Docker().inspect("box").log is None


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"State": {"Status": "paused"}}, ContainerNotRunning, "container 'box' is paused"),
        ({"State": {}}, DataInvalid, "docker's description of 'box'"),
        ({"Mounts": [{"Type": 7}]}, DataInvalid, "docker's description of 'box'"),
        ({"Driver": "btrfs"}, NotMovable, "files kept by 'btrfs'"),
        ({"GraphDriver": {"Data": None}}, DataInvalid, "docker's description of 'box'"),
        ({"Id": "3d"}, ContainerNotFound, "no runc of docker's knows 3d"),
    ],
)
def test_a_container_that_cannot_be_described_is_an_error(
    beneath: Runtime, docker: Dockerd, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    docker.containers["box"] = container(**changes)
    with pytest.raises(error, match=said):
        Docker().inspect("box")


def test_a_container_that_is_not_there_is_not_found(docker: Dockerd) -> None:
    assert not Docker().exists("none")
    with pytest.raises(ContainerNotFound, match="docker knows no container named 'none'"):
        Docker().inspect("none")


def test_the_target_takes_the_description_of_the_source(beneath: Runtime, docker: Dockerd) -> None:
    told = Docker().describe(Docker().inspect("box"))
    assert told["endpoints"] == {"net": ENDPOINT}
    assert told["networks"] == {"net": NETWORK}
    assert told["volumes"] == {"/data": VOLUME}
    assert told["layers"] == ["sha256:1a"]
    assert told["descriptors"] == ["/dev/null"]
    with Undo() as undo:
        assert isinstance(Docker().arrival("box", told, undo), IncomingDockerContainer)


def test_the_runtime_makes_the_checkpoint(beneath: Runtime, tmp_path: Path) -> None:
    found = Docker().inspect("box")
    assert Docker().pack(found, tmp_path) == b""
    assert Docker().checkpoint(found, tmp_path, dict(os.environ)).wait(20) == 0
    assert beneath.asked()[-1][0] == "checkpoint"


@pytest.mark.parametrize(
    ("images", "name"),
    [
        ({"redis": {"Id": "sha256:ff"}}, "redis"),
        ({"redis": {"Id": "sha256:newer"}, "old": {"Id": "sha256:ff"}}, "sha256:ff"),
        ({"old": {"Id": "sha256:ff"}}, "sha256:ff"),
    ],
)
def test_an_image_goes_by_its_name_if_it_still_has_it(
    beneath: Runtime,
    docker: Dockerd,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    images: dict[str, dict[str, str]],
    name: str,
) -> None:
    docker.images = {key: dict(image) for key, image in images.items()}
    exported: list[str] = []
    monkeypatch.setattr(store, "export_image", lambda name, *_: exported.append(name))
    Docker().export_image(Docker().inspect("box"), frozenset(), tmp_path)
    assert exported == [name]


@pytest.mark.parametrize("policy", [{"Name": ""}, {"Name": "no"}])
def test_a_container_that_is_not_restarted_is_left_alone(
    beneath: Runtime, docker: Dockerd, policy: dict[str, str]
) -> None:
    docker.containers["box"]["HostConfig"]["RestartPolicy"] = policy
    with Undo() as undo:
        Docker().suspend_restart_policy(Docker().inspect("box"), undo)
    assert docker.requests("POST") == []


def test_a_restart_policy_is_given_back(beneath: Runtime, docker: Dockerd) -> None:
    host = docker.containers["box"]["HostConfig"]
    things: list[Made] = []
    with Undo(lambda thing, _: things.append(thing)) as undo:
        Docker().suspend_restart_policy(Docker().inspect("box"), undo)
        assert host["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert host["RestartPolicy"] == {"Name": "always", "MaximumRetryCount": 0}
    del docker.containers["box"]
    for thing in things:
        thing.remove()  # a container that is gone needs no policy


def test_what_was_moved_away_is_removed_and_its_volume_noted(
    beneath: Runtime, docker: Dockerd
) -> None:
    found = Docker().inspect("box")
    docker.containers[ID] = docker.containers.pop("box")
    Docker().pause_monitor(found, Undo())
    Docker().end_monitor(found)
    Docker().record_ended(found)
    assert ID in docker.containers
    for thing in Docker().remaining(found, shared=False):
        thing.remove()
    assert docker.containers == {}
    assert left_behind.is_noted("docker", "data", str(VOLUME["CreatedAt"]))
