"""Tests of migrate/network/source.py: the container's network on the source, as phases use it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.network import netns
from checkpoint.network.model import Interface, Network
from checkpoint.undo import Made
from migrate.network.source import MOST_FRAMES, SourceNetwork, fitting
from migrate.wire.values import OwnAddress
from transport.framing import MAX_PAYLOAD


def network() -> Network:
    """Return a network with one interface on a bridge, and one without a bridge."""
    on_bridge = Interface(
        name="eth0",
        mac="02:00:00:00:00:01",
        mtu=1500,
        addresses=("10.0.0.1/24", "fd00::1/64"),
        host_name="veth1",
        bridge="br0",
    )
    alone = Interface(
        name="eth1",
        mac="02:00:00:00:00:02",
        mtu=1500,
        addresses=("10.0.1.1/24",),
        host_name="veth2",
        bridge=None,
    )
    return Network(path="/run/netns/web", interfaces=(on_bridge, alone), routes=())


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[Made]:
    """Return the parts of the only network, which is not real."""
    found: list[Made] = [netns.HostLink(name="veth1", index=7)]
    monkeypatch.setattr(netns, "read", lambda _: network())
    monkeypatch.setattr(netns, "parts_of", lambda _: found)
    return found


def container(*, engine_network: bool, path: str | None = "/run/netns/web") -> Any:
    return SimpleNamespace(network_namespace=path, engine_network=engine_network)


def test_a_network_of_this_tool_is_made_on_the_target_and_removed_here(parts: list[Made]) -> None:
    source = SourceNetwork(container(engine_network=False))
    assert source.for_target == network()
    assert source.macs_to_silence == ()
    assert source.remaining == parts
    source.close()


def test_a_network_of_an_engine_is_left_to_the_engine_and_silenced(parts: list[Made]) -> None:
    source = SourceNetwork(container(engine_network=True))
    assert source.for_target is None
    assert source.macs_to_silence == ("02:00:00:00:00:01", "02:00:00:00:00:02")
    assert source.remaining == []


def test_a_container_that_owns_its_namespace_has_no_network_to_make() -> None:
    source = SourceNetwork(container(engine_network=False, path=None))
    assert source.for_target is None
    assert source.interfaces == ()
    assert source.own_addresses() == ()
    source.take_links_down()
    source.close()


def test_ipv4_addresses_on_bridges_are_asked_for(parts: list[Made]) -> None:
    source = SourceNetwork(container(engine_network=True))
    assert source.own_addresses() == (OwnAddress("10.0.0.1", "02:00:00:00:00:01", "br0"),)


def test_frames_over_the_room_of_a_message_are_left_out() -> None:
    kept = [[b"x" * (MAX_PAYLOAD - 10)], [b"y" * 20, b"z" * 10]]
    assert [(index, len(frame)) for index, frame in fitting(kept)] == [
        (0, MAX_PAYLOAD - 10),
        (1, 10),
    ]
    assert len(fitting([[b""] * (MOST_FRAMES + 1)])) == MOST_FRAMES
