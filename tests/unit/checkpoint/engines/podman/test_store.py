"""Tests of checkpoint/engines/podman/store.py: podman's networks, volumes and images."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.podman import store
from checkpoint.errors import DataInvalid, EngineRefused, ImageError
from tests.unit.checkpoint.engines.podman.program import Podman
from tests.unit.helpers.engines import podman_that

pytestmark = pytest.mark.usefixtures("no_engines")


DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    "name", ["sha256:/etc/shadow", "sha256:../victim", "/victim", "sha256:" + "A" * 64, ""]
)
def test_no_file_but_a_layers_is_deleted(tmp_path: Path, name: str) -> None:
    image = tmp_path / "image"
    image.mkdir()
    victim = tmp_path / "victim"
    victim.touch()
    with pytest.raises(DataInvalid):
        store.leave_out(
            image, [name.replace("/victim", str(victim)) if name == "/victim" else name]
        )
    assert victim.exists()


def test_layers_that_are_there_are_left_out(tmp_path: Path) -> None:
    for name in ("a" * 64, "c" * 64):
        (tmp_path / name).touch()
    store.leave_out(tmp_path, [DIGEST, "sha256:" + "b" * 64])
    assert [path.name for path in tmp_path.iterdir()] == ["c" * 64]


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
def test_what_podman_lacks_is_none(tmp_path: Path, find: Callable[[str], object]) -> None:
    podman_that(tmp_path, "exit 1")
    assert find("web") is None


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
def test_every_request_that_podman_fails_is_an_engine_that_refused(
    tmp_path: Path, ask: Callable[[Path], object]
) -> None:
    podman_that(tmp_path, "echo 'Error: database is locked' >&2", "exit 125")
    with pytest.raises(EngineRefused, match="database is locked"):
        ask(tmp_path)


PODMAN: dict[str, Any] = {
    "name": "net",
    "id": "1" * 64,
    "driver": "bridge",
    "network_interface": "podman1",
    "created": "2026-01-01T00:00:00Z",
    "subnets": [{"subnet": "10.89.0.0/24", "gateway": "10.89.0.1"}],
    "ipv6_enabled": False,
    "internal": False,
    "dns_enabled": True,
    "ipam_options": {"driver": "host-local"},
}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"id": "2" * 64, "created": "2026-02-02T00:00:00Z", "network_interface": "podman7"},
        {"options": {}, "routes": None, "labels": {"a": "b"}},
    ],
)
def test_networks_that_differ_in_names_alone_are_the_same(change: dict[str, Any]) -> None:
    assert store.difference(PODMAN, {**PODMAN, **change}) is None
    assert store.difference({**PODMAN, **change}, PODMAN) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("driver", "macvlan"),
        ("subnets", [{"subnet": "10.89.0.0/24", "gateway": "10.89.0.254"}]),
        ("subnets", [{"subnet": "10.89.1.0/24", "gateway": "10.89.1.1"}]),
        ("subnets", None),
        ("ipv6_enabled", True),
        ("internal", True),
        ("options", {"mtu": "1400"}),
        ("routes", [{"destination": "10.0.0.0/8", "gateway": "10.89.0.7"}]),
    ],
)
def test_networks_that_differ_in_more_are_not_the_same(name: str, value: object) -> None:
    assert store.difference(PODMAN, {**PODMAN, name: value}) == name
    assert store.difference({**PODMAN, name: value}, PODMAN) == name


def test_the_bridge_of_an_unmanaged_network_must_have_the_same_name() -> None:
    ours = {**PODMAN, "options": {"mode": "unmanaged"}}
    assert store.difference(ours, deepcopy(ours)) is None
    assert store.difference(ours, {**ours, "network_interface": "br0"}) == "network_interface"


IMAGE = "ff" * 32
#: A network with all that can be said of one, as `podman network inspect` prints it.
FULL_NETWORK: dict[str, Any] = {
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
            dict.fromkeys(FULL_NETWORK.keys() - {"name", "driver"}),
            "--driver bridge --disable-dns net",
        ),
        (
            {
                **dict.fromkeys(FULL_NETWORK.keys() - {"name", "driver"}),
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
    podman.says("network inspect net", [{**FULL_NETWORK, "id": "new"}])
    assert store.create_network({**FULL_NETWORK, **changes}) == "new"
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


def test_what_is_not_there_is_none_and_a_podman_that_fails_an_error(podman: Podman) -> None:
    """`exists` is asked first: an `inspect` that fails does not say why by its status."""
    podman.says("volume inspect data", [{"Name": "data"}])
    assert store.volume("data") == {"Name": "data"}
    podman.lacks("volume", "data")
    assert store.volume("data") is None
    podman.says("image exists ff", status=125, errors="database is locked")
    with pytest.raises(EngineRefused, match=r"podman cannot be asked: .*database is locked"):
        store.image("ff")


@pytest.mark.parametrize("said", ["", "{}", "[7]", "[", '["a"]'])
def test_a_description_of_another_form_is_refused(podman: Podman, said: str) -> None:
    podman.says("network inspect net", said)
    with pytest.raises(DataInvalid, match="podman's description of network 'net'"):
        store.network("net")


def test_networks_volumes_and_containers_are_removed_by_podman(podman: Podman) -> None:
    store.remove_network("1f")
    store.remove_volume("data")
    store.remove_container("2e")
    assert podman.asked() == [
        "network rm 1f",
        "volume rm --force data",
        "rm --force --ignore --volumes --time=0 2e",
    ]


def test_all_containers_that_use_a_volume_are_found(podman: Podman) -> None:
    podman.says("ps --all --quiet --no-trunc --filter volume=data", "1f\n2e\n")
    assert store.users("data") == {"1f", "2e"}
    assert store.users("other") == set()


def test_a_log_is_beneath_podmans_own_directory(podman: Podman) -> None:
    podman.says("info*", {"store": {"graphRoot": "/var/lib/c", "graphDriverName": "overlay"}})
    wanted = Path("/var/lib/c/overlay-containers/1f/userdata/ctr.log")
    assert store.log_of("1f") == wanted


def test_images_have_their_layers_once(podman: Podman) -> None:
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


def test_another_image_than_was_meant_is_refused(podman: Podman, tmp_path: Path) -> None:
    podman.says("pull*", "ee\n")
    with pytest.raises(ImageError, match=f"the image that arrived is ee, not {IMAGE}"):
        store.load_image(tmp_path, IMAGE, "redis")
    assert podman.asked("tag") == []


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ({"Status": "exited", "ExitCode": 137}, 137),
        ({"Status": "stopped", "ExitCode": 0}, 0),
        ({"Status": "exited", "ExitCode": 137, "StoppedByUser": True}, None),
        ({"Status": "running", "ExitCode": 0}, None),
    ],
)
def test_a_container_ended_by_itself_if_nobody_asked_podman_to_end_it(
    podman: Podman, state: dict[str, Any], code: int | None
) -> None:
    podman.says("container inspect 1f", [{"State": state}])
    assert store.own_end("1f") == code


def test_a_policy_and_a_start_are_asked_for(podman: Podman) -> None:
    store.set_restart_policy("1f", "on-failure:3")
    store.start_container("1f")
    assert podman.asked() == ["update --restart=on-failure:3 1f", "start 1f"]


@pytest.mark.parametrize(
    ("policy", "state", "starts"),
    [
        ("always", {"Status": "exited", "ExitCode": 137}, True),
        ("unless-stopped", {"Status": "exited", "ExitCode": 0}, True),
        ("always", {"Status": "exited", "ExitCode": 0, "StoppedByUser": True}, False),
        ("always", {"Status": "running", "ExitCode": 0}, False),
        ("on-failure", {"Status": "exited", "ExitCode": 1}, False),
    ],
)
def test_a_container_that_somebody_has_stopped_is_not_started_after_a_boot(
    podman: Podman, policy: str, state: dict[str, Any], starts: bool
) -> None:
    podman.says("container inspect 1f", [{"State": state}])
    assert store.starts_at_boot("1f", policy) is starts
