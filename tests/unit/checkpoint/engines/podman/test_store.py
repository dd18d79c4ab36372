"""Tests of checkpoint/engines/podman/store.py: podman's networks, volumes and images."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.podman import store
from checkpoint.errors import DataInvalid, EngineRefused
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
