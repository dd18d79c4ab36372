"""Tests of checkpoint/engines/docker/store.py: when networks of two dockers are the same."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from checkpoint.engines.docker import store as docker_store

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
