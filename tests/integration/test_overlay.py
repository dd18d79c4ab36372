"""A container on a VXLAN overlay that spans three hosts, and its peer on the third host."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.rig import Node, Redis, Rig, until
from tests.rig.clients import Client
from tests.rig.hosts import Hosts
from tests.rig.workload import ADDRESS, REDIS, REDIS_PORT, WORKLOADS

V4, V6 = "10.99.0.{}", "fd99::{}"
REDIS_HOST, PEER_HOST = 50, 60
MTU = 1450
#: The overlay on one host, by replication at the head: each host floods to both others what it has
#: no entry for, and learns from what comes.
OVERLAY = """
link add ov0 type bridge stp_state 0 forward_delay 0
link add vx0 mtu {mtu} type vxlan id 42 dstport 4789 local {address}
link set vx0 master ov0 up
link set ov0 mtu {mtu} up
"""
FLOOD = ["bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "vx0", "dst"]
#: A peer of the container, on gamma.
PEER = """
netns add peer
link add v-peer mtu {mtu} type veth peer name eth0 mtu {mtu} netns peer
link set v-peer master ov0 up
"""
IN_PEER = ["ip", "netns", "exec", "peer"]


@dataclass(frozen=True)
class Peer:
    """The network namespace of a node where the client runs, with the files of the node."""

    node: Node

    def popen(self, argv: list[str], *, stdin: int, stdout: int) -> subprocess.Popen[str]:
        """Start a program of tests/workloads, whose command is one for the switch."""
        _, _, program, *words = argv
        inside = [*IN_PEER, "python3", "-B", f"{WORKLOADS}/{Path(program).name}", *words]
        return self.node.popen(inside, stdin=stdin, stdout=stdout)


@pytest.fixture
def overlay(rig_name: str) -> Iterator[Rig]:
    """A rig of three nodes with an overlay, to which no container is connected yet."""
    rig = Rig(f"{rig_name}-overlay")
    rig.up(nodes=3)
    for node in rig.nodes:
        node.run(["ip", "-batch", "-"], input=OVERLAY.format(mtu=MTU, address=node.address))
        for other in rig.nodes:
            if other.name != node.name:
                node.run([*FLOOD, other.address])
    yield rig
    rig.down()


def addresses(host: int) -> str:
    """Return lines for `ip -batch` that give eth0 its addresses on the overlay, and no others."""
    return (
        f"addr flush dev eth0 scope global\naddr add {V4.format(host)}/24 dev eth0\n"
        f"link set eth0 mtu {MTU} up\naddr add {V6.format(host)}/64 dev eth0 nodad\n"
    )


def remote(node: Node, mac: str) -> str:
    """Return the address of the host behind which a node believes a MAC to be; "" if of none."""
    for line in node.run(["bridge", "fdb", "show", "dev", "vx0"]).stdout.splitlines():
        if line.startswith(mac) and " dst " in line:
            return line.split(" dst ")[1].split()[0]
    return ""


@pytest.mark.parametrize(
    "address",
    [
        pytest.param(V4.format(REDIS_HOST), id="IPv4", marks=pytest.mark.thorough),
        pytest.param(V6.format(REDIS_HOST), id="IPv6"),
    ],
)
def test_a_peer_on_a_third_host_keeps_its_connection(overlay: Rig, address: str) -> None:
    hosts, gamma = Hosts.of(overlay), overlay.node("gamma")
    argv = [*REDIS, "--bind", "*", "-::*"]
    container = hosts.alpha.start_container("redis", ip=ADDRESS, argv=argv)
    redis = Redis(container=container)
    connect = f"link set v-redis master ov0 mtu {MTU}\n"
    hosts.alpha.run(["ip", "-batch", "-"], input=connect)
    hosts.alpha.run(["ip", "-n", "redis", "-batch", "-"], input=addresses(REDIS_HOST))
    gamma.run(["ip", "-batch", "-"], input=PEER.format(mtu=MTU))
    gamma.run(["ip", "-n", "peer", "-batch", "-"], input=addresses(PEER_HOST))
    ping = [*IN_PEER, "ping", "-c1", "-W1", address]
    until(lambda: gamma.run(ping, check=False).returncode == 0, "the overlay to carry packets")
    mac = in_redis(redis.node, "cat", "/sys/class/net/eth0/address")
    with Client(Peer(gamma), address, REDIS_PORT) as client:
        for _ in range(2):
            assert remote(gamma, mac) == redis.node.address
            redis, _ = hosts.move(redis)
            window = client.mark("moved")
            assert window["contiguous"], window
            assert remote(gamma, mac) == redis.node.address
        seen = client.finish()
    assert seen["contiguous"]
    assert seen["reconnects"] == 0
    show = ["ip", "-o", "address", "show", "dev", "eth0", "scope", "global"]
    details = in_redis(redis.node, *show)
    assert f"{V4.format(REDIS_HOST)}/24" in details
    assert f"{V6.format(REDIS_HOST)}/64" in details
    assert in_redis(redis.node, "cat", "/sys/class/net/eth0/mtu") == str(MTU)


def in_redis(node: Node, *argv: str) -> str:
    """Run a command of the node's in redis's network namespace, and return what it prints."""
    return node.run(["ip", "netns", "exec", "redis", *argv]).stdout.strip()
