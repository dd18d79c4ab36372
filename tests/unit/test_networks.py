"""Whether a network of another host's engine is the same: difference() of podman/store.py and docker/store.py."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from checkpoint.engines.docker import store as docker_store
from checkpoint.engines.podman import store as podman_store

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


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"id": "2" * 64, "created": "2026-02-02T00:00:00Z", "network_interface": "podman7"},
        {"options": {}, "routes": None, "labels": {"a": "b"}},
    ],
)
def test_podman_the_same(change: dict[str, Any]) -> None:
    assert podman_store.difference(PODMAN, {**PODMAN, **change}) is None
    assert podman_store.difference({**PODMAN, **change}, PODMAN) is None


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
def test_podman_another(name: str, value: object) -> None:
    assert podman_store.difference(PODMAN, {**PODMAN, name: value}) == name
    assert podman_store.difference({**PODMAN, name: value}, PODMAN) == name


def test_the_name_of_a_bridge_that_podman_does_not_make() -> None:
    ours = {**PODMAN, "options": {"mode": "unmanaged"}}
    assert podman_store.difference(ours, deepcopy(ours)) is None
    assert (
        podman_store.difference(ours, {**ours, "network_interface": "br0"}) == "network_interface"
    )


def test_docker_the_same() -> None:
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
def test_docker_another(name: str, value: object) -> None:
    assert docker_store.difference(DOCKER, {**DOCKER, name: value}) == name
    assert docker_store.difference({**DOCKER, name: value}, DOCKER) == name


def test_docker_networks_without_addresses_of_their_own() -> None:
    without = {**DOCKER, "IPAM": {"Driver": "default"}}
    assert docker_store.difference(without, deepcopy(without)) is None
    assert docker_store.difference(DOCKER, without) == "IPAM"
