"""What podman and docker tell of a container: whether it can be moved, and what is made of that on the other host."""

from __future__ import annotations

import io
import tarfile
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.errors import EngineRefused
from checkpoint.runtimes import docker, docker_api, podman
from checkpoint.runtimes.docker_arrival import endpoint_of
from checkpoint.runtimes.podman import without_contents
from checkpoint.runtimes.podman_arrival import with_output

PODMAN: dict[str, Any] = {
    "Name": "box",
    "Pod": "",
    "OCIRuntime": "/usr/bin/crun",
    "Config": {"Tty": False},
    "HostConfig": {"NetworkMode": "bridge"},
}
DOCKER: dict[str, Any] = {
    "Name": "/box",
    "Driver": "overlay2",
    "Config": {"Tty": False},
    "HostConfig": {"NetworkMode": "net", "Runtime": "runc"},
    "NetworkSettings": {"Networks": {"net": {}}},
}
#: As docker tells them.
ENDPOINT: dict[str, Any] = {
    "IPAMConfig": None,
    "Links": None,
    "Aliases": None,
    "DriverOpts": None,
    "GwPriority": 0,
    "NetworkID": "1" * 64,
    "EndpointID": "2" * 64,
    "Gateway": "10.90.0.1",
    "IPAddress": "10.90.0.2",
    "MacAddress": "02:42:0a:5a:00:02",
    "IPPrefixLen": 24,
    "IPv6Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "DNSNames": ["box", "3" * 12],
}


def changed(found: dict[str, Any], at: str, value: object) -> dict[str, Any]:
    """A copy with another value "Section.Name"."""
    copy = deepcopy(found)
    *sections, name = at.split(".")
    section = copy
    for each in sections:
        section = section[each]
    section[name] = value
    return copy


def pack(files: dict[str, bytes | None]) -> bytes:
    """An archive of files, and directories where there is no content."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.mtime = 0o751, 1_700_000_000
            if data is None:
                entry.type = tarfile.DIRTYPE
            else:
                entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data or b""))
    return written.getvalue()


def unpack(archive: bytes) -> dict[str, bytes | None]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        entries = {entry.name: tar.extractfile(entry) for entry in tar}
        assert len(entries) == len(tar.getnames())
        return {name: file.read() if file else None for name, file in entries.items()}


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ("HostConfig.NetworkMode", "none"),
        ("OCIRuntime", "runc"),
        ("OCIRuntime", "/opt/sbin/runc"),
    ],
)
def test_podman_can_be_moved(at: str, value: str) -> None:
    assert podman.unmovable(PODMAN) is None
    assert podman.unmovable(changed(PODMAN, at, value)) is None


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        ("Pod", "4" * 64, "in a pod"),
        ("Config.Tty", True, "has a terminal"),
        ("HostConfig.NetworkMode", "host", "the network mode 'host'"),
        ("HostConfig.NetworkMode", "container:" + "5" * 64, "the network mode 'container:5"),
        ("HostConfig.NetworkMode", "pasta", "the network mode 'pasta'"),
        ("OCIRuntime", "/usr/bin/runsc", "run by /usr/bin/runsc"),
    ],
)
def test_podman_cannot(at: str, value: object, said: str) -> None:
    why = podman.unmovable(changed(PODMAN, at, value))
    assert why is not None
    assert why.startswith("container 'box' ")
    assert said in why


@pytest.mark.parametrize("runtime", ["runc", "io.containerd.runc.v2", "migrate"])
def test_docker_can_be_moved(runtime: str) -> None:
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
    ],
)
def test_docker_cannot(at: str, value: object, said: str) -> None:
    why = docker.unmovable(changed(DOCKER, at, value))
    assert why is not None
    assert why.startswith("container 'box' ")
    assert said in why


def test_an_endpoint_keeps_its_addresses_and_nothing_of_its_host() -> None:
    assert endpoint_of(ENDPOINT) == {
        "MacAddress": "02:42:0a:5a:00:02",
        "IPAMConfig": {"IPv4Address": "10.90.0.2"},
    }


def test_an_endpoint_with_all_there_is() -> None:
    given = {"Links": ["other:o"], "Aliases": ["db"], "DriverOpts": {"a": "b"}, "GwPriority": 5}
    assert endpoint_of({**ENDPOINT, **given, "GlobalIPv6Address": "fd00::2"}) == {
        **given,
        "MacAddress": "02:42:0a:5a:00:02",
        "IPAMConfig": {"IPv4Address": "10.90.0.2", "IPv6Address": "fd00::2"},
    }


def test_an_endpoint_of_ipv6_alone() -> None:
    found = endpoint_of({**ENDPOINT, "IPAddress": "", "GlobalIPv6Address": "fd00::2"})
    assert found["IPAMConfig"] == {"IPv6Address": "fd00::2"}


def test_an_archive_without_contents() -> None:
    kept: dict[str, bytes | None] = {"config.dump": b"{}", "checkpoint": None, "artifacts/x": bytes(range(256)) * 9}
    left_out: dict[str, bytes | None] = {
        "ctr.log": b"old\n",
        "devshm-checkpoint.tar": b"m",
        "rootfs-diff.tar": bytes(20_000),
        "deleted.files": b"[]",
    }
    archive = without_contents(pack({**left_out, **kept}))
    assert unpack(archive) == {**kept, "checkpoint/inventory.img": b""}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        described = {name: (tar.getmember(name).mode, tar.getmember(name).mtime) for name in kept}
    assert described == dict.fromkeys(kept, (0o751, 1_700_000_000))


def test_links_in_an_archive() -> None:
    written = io.BytesIO(pack({"config.dump": b"{}"}))
    with tarfile.open(fileobj=written, mode="a") as tar:
        entry = tarfile.TarInfo("network.status")
        entry.type, entry.linkname = tarfile.SYMTYPE, "config.dump"
        tar.addfile(entry)
    with tarfile.open(fileobj=io.BytesIO(without_contents(written.getvalue()))) as tar:
        found = tar.getmember("network.status")
        assert (found.issym(), found.linkname) == (True, "config.dump")


@pytest.mark.parametrize("output", [b"", b"line\n", b"2026-01-01T00:00:00Z stdout F \xff\n" * 1000])
def test_an_archive_with_output(output: bytes) -> None:
    archive = without_contents(pack({"config.dump": b"{}" * 300, "ctr.log": b"old\n"}))
    found = unpack(with_output(archive, output))
    assert found == {"config.dump": b"{}" * 300, "checkpoint/inventory.img": b"", "ctr.log": output}


def test_a_restart_policy_that_cannot_be_given_back_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def call(method: str, path: str, body: Any = None) -> None:
        asked.append(body["RestartPolicy"]["Name"])
        if len(asked) > 1:
            raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(docker_api, "call", call)
    policy = {"Name": "on-failure", "MaximumRetryCount": 3}
    container: Any = SimpleNamespace(id="1f", name="web", engine_state={"HostConfig": {"RestartPolicy": policy}})
    give_back = docker.Docker().hold_back(container)
    with pytest.raises(EngineRefused, match=r"docker update --restart on-failure:3 web.*Connection refused"):
        give_back()
    assert asked == ["no", "on-failure"]
