"""What podman and docker tell of a container: whether it can be moved, and what is made of that on the other host."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.engines import archives, belongings
from checkpoint.engines.docker import api
from checkpoint.engines.docker import engine as docker
from checkpoint.engines.docker.incoming import endpoint_of, entries
from checkpoint.engines.podman import engine as podman
from checkpoint.engines.podman.engine import MOST_PACKED_BYTES, without_contents
from checkpoint.engines.podman.incoming import with_output
from checkpoint.errors import EngineRefused, ImageError, NotMovable
from tests.fuzz.parser import bounded_memory

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
        ("Config.Labels", {"PODMAN_SYSTEMD_UNIT": "web.service"}, "the systemd unit 'web.service'"),
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
        ("HostConfig.AutoRemove", True, "--rm"),
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


def file_of(directory: Path, data: bytes) -> Path:
    path = directory / "archive.tar"
    path.write_bytes(data)
    return path


def test_an_archive_without_contents(tmp_path: Path) -> None:
    kept: dict[str, bytes | None] = {
        "config.dump": b"{}",
        "checkpoint": None,
        "artifacts/x": bytes(range(256)) * 9,
    }
    left_out: dict[str, bytes | None] = {
        "ctr.log": b"old\n",
        "devshm-checkpoint.tar": b"m",
        "rootfs-diff.tar": bytes(20_000),
        "deleted.files": b"[]",
    }
    archive = without_contents(file_of(tmp_path, pack({**left_out, **kept})))
    assert unpack(archive) == {**kept, "checkpoint/inventory.img": b""}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        described = {name: (tar.getmember(name).mode, tar.getmember(name).mtime) for name in kept}
    assert described == dict.fromkeys(kept, (0o751, 1_700_000_000))


def test_links_in_an_archive(tmp_path: Path) -> None:
    written = io.BytesIO(pack({"config.dump": b"{}"}))
    with tarfile.open(fileobj=written, mode="a") as tar:
        entry = tarfile.TarInfo("network.status")
        entry.type, entry.linkname = tarfile.SYMTYPE, "config.dump"
        tar.addfile(entry)
    with tarfile.open(
        fileobj=io.BytesIO(without_contents(file_of(tmp_path, written.getvalue())))
    ) as tar:
        found = tar.getmember("network.status")
        assert (found.issym(), found.linkname) == (True, "config.dump")


@pytest.mark.parametrize("output", [b"", b"line\n", b"2026-01-01T00:00:00Z stdout F \xff\n" * 1000])
def test_an_archive_with_output(tmp_path: Path, output: bytes) -> None:
    archive = without_contents(
        file_of(tmp_path, pack({"config.dump": b"{}" * 300, "ctr.log": b"old\n"}))
    )
    found = unpack(with_output(archive, output))
    assert found == {"config.dump": b"{}" * 300, "checkpoint/inventory.img": b"", "ctr.log": output}


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


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"\0" * 511,
        lambda data: b"x" * 4096,
        lambda data: data[:700],
        lambda data: data[:124] + b"\x80" + b"\0" * 10 + b"\x01" + data[136:],  # a size in base 256
        lambda data: data[:124] + b"\xff" * 12 + data[136:],  # a size below 0
        lambda data: data[:257] + b"ustar  \0" + data[265:],
    ],
)
def test_a_damaged_archive(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    data = pack({"config.dump": b"{}" * 300})
    with contextlib.suppress(ImageError):
        assert len(without_contents(file_of(tmp_path, damage(data)))) < len(data) + 20_000
    with contextlib.suppress(ImageError):
        archives.unpack(io.BytesIO(damage(data)), (), tmp_path / "out")


def test_an_archive_of_more_than_descriptions(tmp_path: Path) -> None:
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as tar, (tmp_path / "large").open("wb+") as large:
        large.truncate(MOST_PACKED_BYTES)
        for name in ("artifacts/x", "artifacts/y"):
            large.seek(0)
            tar.addfile(tar.gettarinfo(tmp_path / "large", name), large)
    with pytest.raises(ImageError, match="artifacts/"):
        without_contents(path)


@pytest.mark.parametrize("name", ["../out", "{}/out", "a/../../out"])
def test_an_archive_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    data, inside = pack({"blobs": None, name.format(tmp_path): b"x"}), tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(ImageError):
        archives.unpack(io.BytesIO(data), (), inside)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
)
def test_an_archive_of_an_image_has_only_data_in_it(tmp_path: Path, kind: bytes) -> None:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        entry = tarfile.TarInfo("blobs")
        entry.type, entry.linkname = kind, "/etc"
        tar.addfile(entry)
    with pytest.raises(ImageError):
        archives.unpack(io.BytesIO(written.getvalue()), (), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_of_an_image(tmp_path: Path) -> None:
    data = pack(
        {"blobs": None, "blobs/sha256/1": b"one", "blobs/sha256/2": b"two", "index.json": b"{}"}
    )
    archives.unpack(io.BytesIO(data), {"blobs/sha256/2"}, tmp_path)
    found = {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert found == {"blobs/sha256/1": b"one", "index.json": b"{}"}


def test_output_that_is_added_to_anything_is_added_behind_it() -> None:
    """What the other host sent is not parsed on the way to podman."""
    for archive in (b"", b"x", bytes(2048), b"y" * 513, pack({"a": b"1"})):
        found = with_output(archive, b"line\n")
        assert len(found) % 512 == 0
        assert len(found) <= len(archive) + 4 * 512
        with tarfile.open(fileobj=io.BytesIO(found[-4 * 512 :])) as tar:
            assert [(entry.name, entry.size) for entry in tar] == [("ctr.log", 5)]


def test_entries_of_a_log() -> None:
    lines = [
        b'{"log":"one\\n","stream":"stdout","time":"t"}',
        b'{"log":"two\\n","stream":"stderr"}',
        *(
            b"",
            b"[]",
            b"null",
            b"{",
            b"\xff",
            b"[" * 100_000,
            b'{"log":1,"stream":"stdout"}',
            b'{"log":"x","stream":["stdout"]}',
        ),
        *(b'{"log":"x","stream":"3"}', b'{"log":"x"}', b'{"stream":"stdout"}'),
        b'{"log":"\\ud800","stream":"stdout"}',
    ]
    assert list(entries(b"\n".join(lines))) == [(1, b"one\n"), (2, b"two\n"), (1, b"?")]


def test_an_archive_is_not_taken_for_a_compressed_one(tmp_path: Path) -> None:
    """As the old format of LZMA these 463 bytes would begin with a dictionary of 4 GiB."""
    with bounded_memory(), pytest.raises(ImageError):
        without_contents(file_of(tmp_path, (b"\x63" + b"\xff" * 104).ljust(463, b"\0")))


class OfTwo:
    """A Store that has one volume, `data`, which two containers use."""

    def network(self, name: str) -> dict[str, Any]:
        return {"name": name}

    def volume(self, name: str) -> dict[str, Any]:
        return {"Name": name, "Driver": "local"}

    def users(self, name: str) -> set[str]:
        return {"1f", "2e" * 32}


def test_a_volume_of_two_containers_stays() -> None:
    found = {"Id": "1f", "Mounts": [{"Type": "volume", "Name": "data", "Destination": "/data"}]}
    store: Any = OfTwo()
    with pytest.raises(NotMovable, match="volume 'data' is also used by container 2e2e2e2e2e2e"):
        belongings.described("podman", store, found, [])
    store.users = lambda _: {"1f"}
    assert belongings.described("podman", store, found, [])["volumes"] == {
        "/data": {"Name": "data", "Driver": "local"}
    }


def test_a_network_that_another_container_uses_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [{"Id": "1f", "HostConfig": {"NetworkMode": "net"}}]
    monkeypatch.setattr(api, "call", lambda *_: listed)
    docker._check_not_joined({"Id": "1f", "Name": "/web"})
    listed.append({"Id": "2e" * 32, "HostConfig": {"NetworkMode": "container:1f"}})
    with pytest.raises(NotMovable, match="2e2e2e2e2e2e uses the network of 'web'"):
        docker._check_not_joined({"Id": "1f", "Name": "/web"})
