"""Tests of checkpoint/engines/docker/store.py: when networks of two dockers are the same."""

from __future__ import annotations

import io
import json
import tarfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.docker import api, store
from checkpoint.engines.docker import store as docker_store
from checkpoint.errors import EngineRefused, ImageError
from tests.unit.checkpoint.engines.docker.dockerd import Dockerd

DOCKER: dict[str, Any] = {
    "Name": "net",
    "Id": "1" * 64,
    "Created": "2026-01-01T00:00:00Z",
    "Driver": "bridge",
    "EnableIPv4": True,
    "EnableIPv6": False,
    "Internal": False,
    "IPAM": {
        "Driver": "default",
        "Options": {},
        "Config": [{"Subnet": "10.90.0.0/24", "Gateway": "10.90.0.1"}],
    },
    "Containers": {},
    "Options": {},
    "Labels": {},
}


def test_networks_that_differ_in_names_alone_are_the_same() -> None:
    theirs = deepcopy(DOCKER)
    theirs |= {
        "Id": "2" * 64,
        "Created": "2026-02-02T00:00:00Z",
        "Labels": {"a": "b"},
        "Containers": {"c": {}},
    }
    assert docker_store.difference(DOCKER, theirs) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Driver", "macvlan"),
        ("EnableIPv6", True),
        ("Internal", True),
        ("Options", {"com.docker.network.bridge.name": "br0"}),
        (
            "IPAM",
            {"Driver": "default", "Config": [{"Subnet": "10.90.1.0/24", "Gateway": "10.90.1.1"}]},
        ),
        (
            "IPAM",
            {"Driver": "default", "Config": [{"Subnet": "10.90.0.0/24", "Gateway": "10.90.0.254"}]},
        ),
    ],
)
def test_networks_that_differ_in_more_are_not_the_same(name: str, value: object) -> None:
    assert docker_store.difference(DOCKER, {**DOCKER, name: value}) == name
    assert docker_store.difference({**DOCKER, name: value}, DOCKER) == name


def test_a_network_without_addresses_is_another_than_one_with() -> None:
    without = {**DOCKER, "IPAM": {"Driver": "default"}}
    assert docker_store.difference(without, deepcopy(without)) is None
    assert docker_store.difference(DOCKER, without) == "IPAM"


LAYERS = ["sha256:1a", "sha256:2b"]
IMAGE = {"Id": "sha256:ff", "RootFS": {"Layers": LAYERS}}


def test_a_network_is_made_as_another_docker_describes_it(docker: Dockerd) -> None:
    ipam = {"Driver": "default", "Config": [{"Subnet": "10.1.0.0/24"}]}
    described = {
        "Name": "net",
        "Id": "of the source",
        "Created": "then",
        "Driver": "bridge",
        "EnableIPv6": False,
        "IPAM": ipam,
        "Labels": {"a": "b"},
        "Containers": {"1f": {}},
    }
    network_id = store.create_network(described)
    given = {name: described[name] for name in ("Name", "Driver", "EnableIPv6", "IPAM", "Labels")}
    assert docker.body("/networks/create") == given
    assert store.network("net") == {**given, "Id": network_id}
    with pytest.raises(EngineRefused, match="docker: network with name net already exists"):
        store.create_network(described)
    store.remove_network(network_id)
    assert store.network("net") is None
    store.remove_network(network_id)  # one that is gone is no error


def test_a_volume_is_made_as_another_docker_describes_it(docker: Dockerd) -> None:
    described = {
        "Name": "data",
        "Driver": "local",
        "Options": {"type": "tmpfs"},
        "Labels": None,
        "Mountpoint": "/of/the/source",
    }
    root = store.create_volume(described)
    given = {"Name": "data", "Driver": "local", "DriverOpts": {"type": "tmpfs"}, "Labels": {}}
    assert docker.body("/volumes/create") == given
    found = store.volume("data")
    assert found is not None
    assert root == Path(found["Mountpoint"])
    store.remove_volume("data")
    assert store.volume("data") is None


def test_all_containers_that_use_a_volume_are_found(docker: Dockerd) -> None:
    docker.containers = {
        name: {"Id": name, "Mounts": [{"Name": volume}]}
        for name, volume in (("1f", "data"), ("2e", "other"), ("3d", "data"))
    }
    assert store.users("data") == {"1f", "3d"}
    assert docker.asked[-1][2]["all"] == "true", "one that does not run has it as well"


def test_a_container_is_removed_with_its_anonymous_volumes(docker: Dockerd) -> None:
    docker.containers["1f"] = {}
    store.remove_container("1f")
    assert docker.containers == {}
    assert docker.asked[-1][2] == {"force": "true", "v": "true"}
    store.remove_container("1f")
    docker.refuses["DELETE /containers/1f"] = "removal already in progress"
    with pytest.raises(EngineRefused, match="docker: removal already in progress"):
        store.remove_container("1f")


def test_images_have_their_layers_once(docker: Dockerd) -> None:
    docker.images = {
        "a": IMAGE,
        "the same": IMAGE,
        "empty": {"Id": "sha256:ee", "RootFS": {"Layers": None}},
    }
    assert store.layers_of_all_images() == [[], LAYERS]


def test_a_runtime_has_the_program_that_docker_names(docker: Dockerd) -> None:
    docker.runtimes = {"migrate": {"path": "/usr/sbin/x"}, "odd": {"runtimeType": "io.odd"}}
    names = ("migrate", "odd", "none")
    assert [store.runtime_program(name) for name in names] == [Path("/usr/sbin/x"), None, None]


def saved(**files: bytes) -> bytes:
    """Return the archive of a `docker save`. The names of files are given with __ for /."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return written.getvalue()


def test_an_image_is_written_without_the_layers_that_are_there(
    docker: Dockerd, tmp_path: Path
) -> None:
    docker.images["x"] = IMAGE
    docker.saved = saved(blobs__sha256__1a=b"lower", blobs__sha256__2b=b"upper", index=b"{}")
    store.export_image("x", frozenset(LAYERS[:1]), tmp_path / "image")
    written = {
        str(path.relative_to(tmp_path / "image")): path.read_bytes()
        for path in (tmp_path / "image").rglob("*")
        if path.is_file()
    }
    assert written == {"blobs/sha256/2b": b"upper", "index": b"{}"}


def test_an_image_that_breaks_off_is_an_error(docker: Dockerd, tmp_path: Path) -> None:
    docker.images["x"] = IMAGE
    docker.saved = saved(index=bytes(2000))[:1500]
    with pytest.raises(ImageError, match="cannot be unpacked"):
        store.export_image("x", frozenset(), tmp_path / "image")


@pytest.fixture
def arrived(tmp_path: Path) -> Path:
    directory = tmp_path / "image"
    (directory / "blobs").mkdir(parents=True)
    (directory / "blobs/1a").write_bytes(b"lower")
    return directory


def test_an_image_is_loaded(docker: Dockerd, arrived: Path) -> None:
    def loads() -> str:
        docker.images["x"] = IMAGE
        return json.dumps({"stream": "Loaded image: x"})

    docker.loads = loads
    store.load_image(arrived, IMAGE["Id"])  # type: ignore[arg-type]
    with tarfile.open(fileobj=io.BytesIO(docker.uploads[0])) as archive:
        assert "./blobs/1a" in archive.getnames()
    assert [path.name for path in arrived.parent.glob("image*")] == ["image"]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ('{"stream": "Loaded image: another"}', ImageError),
        ('{"error": "layer does not match"}', EngineRefused),
    ],
)
def test_another_image_than_was_meant_is_refused(
    docker: Dockerd, arrived: Path, said: str, error: type[Exception]
) -> None:
    docker.loads = lambda: said
    with pytest.raises(error):
        store.load_image(arrived, "sha256:ff")
    assert [path.name for path in arrived.parent.glob("image*")] == ["image"]


def test_an_answer_that_is_not_json_is_passed_over(docker: Dockerd) -> None:
    """Some answers of docker's have no body at all."""
    docker.containers["1f"] = {}
    assert api.call("DELETE", "/containers/1f") is None
    assert api.is_here()


ENDED = {
    "Status": "exited",
    "Pid": 0,
    "ExitCode": 137,
    "StartedAt": "2026-01-01T00:00:00.123456789Z",
    "FinishedAt": "2026-01-01T00:00:10.5Z",
}


@pytest.mark.parametrize(
    ("actions", "code"),
    [
        (["die"], 137),
        (["kill", "die"], None),  # docker stop, docker kill
        (["kill"], None),
        ([], None),  # before docker was started
    ],
)
def test_a_container_ended_by_itself_if_nobody_asked_docker_to_end_it(
    docker: Dockerd, actions: list[str], code: int | None
) -> None:
    docker.containers["1f"] = {"Id": "1f", "Config": {}, "State": ENDED}
    docker.events = [{"Type": "container", "Action": action} for action in actions]
    assert store.own_end("1f") == code
    query = docker.asked[-1][2]
    assert json.loads(query["filters"]) == {"container": ["1f"], "event": ["die", "kill"]}
    assert (query["since"], query["until"]) == ("1767225600.123456", "1767225611.000000")


@pytest.mark.parametrize(
    ("stop", "sent", "wished"),
    [
        ("SIGQUIT", 1, False),  # a server that is told to read its settings again
        ("SIGQUIT", 3, True),
        ("quit", 3, True),
        ("3", 3, True),
        ("SIGQUIT", 9, True),
        ("", 1, True),
        (None, 15, True),
        ("SIGRTMIN+3", 15, True),
    ],
)
def test_only_some_signals_are_a_wish_that_it_ends(
    docker: Dockerd, stop: str | None, sent: int, wished: bool
) -> None:
    docker.containers["1f"] = {"Id": "1f", "Config": {"StopSignal": stop}, "State": ENDED}
    kill = {"Action": "kill", "Actor": {"Attributes": {"signal": str(sent)}}}
    docker.events = [kill, {"Action": "die"}]
    assert store.own_end("1f") == (None if wished else 137)


def test_a_container_that_runs_has_not_ended(docker: Dockerd) -> None:
    docker.containers["1f"] = {
        "Id": "1f",
        "Config": {},
        "State": {**ENDED, "Status": "running"},
    }
    docker.events = [{"Type": "container", "Action": "die"}]
    assert store.own_end("1f") is None


def test_a_container_is_started(docker: Dockerd) -> None:
    docker.containers["1f"] = {"Id": "1f", "State": dict(ENDED)}
    store.start_container("1f")
    assert docker.requests("POST") == ["/containers/1f/start"]


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("no", {"Name": "no", "MaximumRetryCount": 0}),
        ("on-failure:3", {"Name": "on-failure", "MaximumRetryCount": 3}),
    ],
)
def test_a_policy_is_given_in_the_words_of_the_command_line(
    docker: Dockerd, text: str, policy: dict[str, Any]
) -> None:
    docker.containers["1f"] = {"Id": "1f", "HostConfig": {}}
    store.set_restart_policy("1f", text)
    assert docker.containers["1f"]["HostConfig"]["RestartPolicy"] == policy


@pytest.mark.parametrize(
    ("policy", "status", "action", "starts"),
    [
        ("always", "exited", None, True),
        ("always", "exited", "stop", False),
        ("always", "running", None, False),
        ("unless-stopped", "exited", None, False),  # somebody may have stopped it before
        ("on-failure", "exited", None, False),
    ],
)
def test_a_container_that_somebody_has_stopped_is_not_started_after_a_boot(
    docker: Dockerd, policy: str, status: str, action: str | None, starts: bool
) -> None:
    docker.containers["1f"] = {"Id": "1f", "Config": {}, "State": {**ENDED, "Status": status}}
    docker.events = [] if action is None else [{"Action": action}]
    assert store.starts_at_boot("1f", policy) is starts
    if policy == "always" and status == "exited":
        assert docker.asked[-1][2]["until"] == "1767225660.000000"
