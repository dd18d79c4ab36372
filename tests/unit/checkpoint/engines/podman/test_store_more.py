"""checkpoint/engines/podman/store.py: the commands that are run, and how their output is understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.podman import store
from checkpoint.errors import DataInvalid, EngineRefused, ImageError
from tests.unit.checkpoint.engines.podman.program import Podman

IMAGE = "ff" * 32
#: A network with all that can be said of one, as `podman network inspect` prints it.
NETWORK: dict[str, Any] = {
    "name": "net",
    "id": "of the source",
    "driver": "bridge",
    "network_interface": "podman7",
    "subnets": [
        {
            "subnet": "10.1.0.0/24",
            "gateway": "10.1.0.1",
            "lease_range": {"start_ip": "10.1.0.9", "end_ip": "10.1.0.20"},
        },
        {"subnet": "fd01::/64"},
    ],
    "routes": [
        {"destination": "10.2.0.0/16", "gateway": "10.1.0.5"},
        {"destination": "10.3.0.0/16", "gateway": "10.1.0.5", "metric": 0},
    ],
    "ipv6_enabled": True,
    "internal": True,
    "dns_enabled": True,
    "network_dns_servers": ["10.1.0.53"],
    "options": {"mtu": "1400"},
    "labels": {"a": "b"},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {},
            "--driver bridge --subnet 10.1.0.0/24 --gateway 10.1.0.1 --ip-range 10.1.0.9-10.1.0.20"
            " --subnet fd01::/64 --route 10.2.0.0/16,10.1.0.5 --route 10.3.0.0/16,10.1.0.5,0"
            " --opt mtu=1400 --label a=b --interface-name podman7 --dns 10.1.0.53"
            " --ipv6 --internal net",
        ),
        (
            dict.fromkeys(NETWORK.keys() - {"name", "driver"}),
            "--driver bridge --disable-dns net",
        ),
        (
            {
                **dict.fromkeys(NETWORK.keys() - {"name", "driver"}),
                "subnets": [{"subnet": "10.1.0.0/24", "lease_range": {"start_ip": "10.1.0.9"}}],
                "dns_enabled": True,
            },
            "--driver bridge --subnet 10.1.0.0/24 --ip-range 10.1.0.9- net",
        ),
    ],
)
def test_a_network_is_made_as_another_podman_describes_it(
    podman: Podman, changes: dict[str, Any], words: str
) -> None:
    podman.says("network inspect net", [{**NETWORK, "id": "new"}])
    assert store.create_network({**NETWORK, **changes}) == "new"
    assert podman.asked("network create") == [f"network create {words}"]


@pytest.mark.parametrize(
    ("options", "labels", "words"),
    [
        ({"o": "size=1g"}, {"a": "b"}, "--driver local --opt o=size=1g --label a=b data"),
        (None, None, "--driver local data"),
    ],
)
def test_a_volume_is_made_as_another_podman_describes_it(
    podman: Podman, options: object, labels: object, words: str
) -> None:
    podman.says("volume inspect data", [{"Name": "data", "Mountpoint": "/v/data/_data"}])
    wanted = {"Name": "data", "Driver": "local", "Options": options, "Labels": labels}
    assert store.create_volume(wanted) == Path("/v/data/_data")
    assert podman.asked("volume create") == [f"volume create {words}"]


def test_what_there_is(podman: Podman) -> None:
    """`exists` is asked first: an `inspect` that fails does not say why by its status."""
    podman.says("volume inspect data", [{"Name": "data"}])
    assert store.volume("data") == {"Name": "data"}
    podman.lacks("volume", "data")
    assert store.volume("data") is None
    podman.says("image exists ff", status=125, errors="database is locked")
    with pytest.raises(EngineRefused, match=r"podman cannot be asked: .*database is locked"):
        store.image("ff")


@pytest.mark.parametrize("said", ["", "{}", "[7]", "[", '["a"]'])
def test_a_description_that_is_none(podman: Podman, said: str) -> None:
    podman.says("network inspect net", said)
    with pytest.raises(DataInvalid, match="podman's description of network 'net'"):
        store.network("net")


def test_what_is_removed(podman: Podman) -> None:
    store.remove_network("1f")
    store.remove_volume("data")
    store.remove_container("2e")
    assert podman.asked() == [
        "network rm 1f",
        "volume rm --force data",
        "rm --force --ignore --volumes --time=0 2e",
    ]


def test_who_has_a_volume(podman: Podman) -> None:
    podman.says("ps --all --quiet --no-trunc --filter volume=data", "1f\n2e\n")
    assert store.users("data") == {"1f", "2e"}
    assert store.users("other") == set()


def test_where_podman_keeps_a_log(podman: Podman) -> None:
    podman.says("info*", {"store": {"graphRoot": "/var/lib/c", "graphDriverName": "overlay"}})
    wanted = Path("/var/lib/c/overlay-containers/1f/userdata/ctr.log")
    assert store.log_of("1f") == wanted


def test_layers_of_all_images(podman: Podman) -> None:
    assert store.layers_of_all_images() == []
    assert podman.asked("image inspect") == [], "podman fails if it is asked for none"
    podman.says("images*", "sha256:2b\nsha256:1a\nsha256:2b\n")
    layers = [{"RootFS": {"Layers": ["sha256:aa"]}}, {"RootFS": {"Layers": None}}]
    podman.says("image inspect sha256:1a sha256:2b", layers)
    assert store.layers_of_all_images() == [["sha256:aa"], []]


def test_an_image_is_written_without_the_layers_that_are_there(
    podman: Podman, tmp_path: Path
) -> None:
    (tmp_path / "image").mkdir()
    lower, upper, gone = ("1a" * 32, "2b" * 32, "3c" * 32)
    for name in (lower, upper, "manifest.json"):
        (tmp_path / "image" / name).touch()  # as podman would write them
    there = frozenset({f"sha256:{lower}", f"sha256:{gone}"})
    store.export_image("ff", there, tmp_path / "image")
    assert {path.name for path in (tmp_path / "image").iterdir()} == {upper, "manifest.json"}
    options = "--quiet --remove-signatures --compress=false"
    assert podman.asked() == [f"push {options} ff dir:{tmp_path}/image"]


def test_a_layer_that_is_none_removes_nothing(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "secret").touch()
    with pytest.raises(DataInvalid):
        store.export_image("ff", frozenset({"../secret"}), tmp_path / "image")
    assert (tmp_path / "secret").exists()


@pytest.mark.parametrize(("name", "tagged"), [("localhost/redis:7", True), (IMAGE[:12], False)])
def test_an_image_is_loaded_and_has_its_name(
    podman: Podman, tmp_path: Path, name: str, tagged: bool
) -> None:
    podman.says(f"pull --quiet dir:{tmp_path}", f"{IMAGE}\n")
    store.load_image(tmp_path, IMAGE, name)
    assert podman.asked("tag") == ([f"tag {IMAGE} {name}"] if tagged else [])


def test_another_image_than_was_meant(podman: Podman, tmp_path: Path) -> None:
    podman.says("pull*", "ee\n")
    with pytest.raises(ImageError, match=f"the image that arrived is ee, not {IMAGE}"):
        store.load_image(tmp_path, IMAGE, "redis")
    assert podman.asked("tag") == []
