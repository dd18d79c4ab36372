"""A container on a VXLAN overlay that spans three hosts, over IPv4 and IPv6, and a peer on the third."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.clients import RedisClient
from tests.integration.conftest import REDIS, REDIS_ADDRESS, Hosts
from tests.rig import Node, Rig, until

V4, V6 = "10.99.0.{}", "fd99::{}"
REDIS_HOST, PEER_HOST = 50, 60
MTU = 1450
#: Heads are replicated: each host floods what it has no entry for to both others, and learns from what comes.
OVERLAY = """
link add ov0 type bridge stp_state 0 forward_delay 0
link add vx0 mtu {mtu} type vxlan id 42 dstport 4789 local {address}
link set vx0 master ov0 up
link set ov0 mtu {mtu} up
"""
#: A peer of the container on its host.
PEER = """
netns add peer
link add v-peer mtu {mtu} type veth peer name eth0 mtu {mtu} netns peer
link set v-peer master ov0 up
"""


@dataclass(frozen=True)
class Peer:
    """Where the clients are: a network namespace of a node."""

    node: Node

    def popen(self, argv: Sequence[str], **streams: Any) -> subprocess.Popen[str]:
        program = f"/opt/migrate/tests/workloads/{Path(argv[2]).name}"
        return self.node.popen(
            ["ip", "netns", "exec", "peer", "python3", "-B", program, *argv[3:]], **streams
        )


@pytest.fixture
def overlay(rig_name: str) -> Iterator[Rig]:
    rig = Rig(f"{rig_name}-overlay")
    rig.up(nodes=3)
    for node in rig.nodes:
        node.run(["ip", "-batch", "-"], input=OVERLAY.format(mtu=MTU, address=node.address))
        for other in rig.nodes:
            if other.name != node.name:
                node.run(
                    [
                        "bridge",
                        "fdb",
                        "append",
                        "00:00:00:00:00:00",
                        "dev",
                        "vx0",
                        "dst",
                        other.address,
                    ]
                )
    yield rig
    rig.down()


def addresses(host: int) -> str:
    """Lines for `ip -batch` that give an interface its addresses on the overlay, and nothing else."""
    plain = f"addr flush dev eth0 scope global\naddr add {V4.format(host)}/24 dev eth0\nlink set eth0 mtu {MTU} up\n"
    return f"{plain}addr add {V6.format(host)}/64 dev eth0 nodad\n"


def remote(node: Node, mac: str) -> str:
    """The host that a node takes for that of a MAC."""
    for line in node.run(["bridge", "fdb", "show", "dev", "vx0"]).stdout.splitlines():
        if line.startswith(mac) and " dst " in line:
            return line.split(" dst ")[1].split()[0]
    return ""


@pytest.mark.parametrize(
    "address", [V4.format(REDIS_HOST), V6.format(REDIS_HOST)], ids=["IPv4", "IPv6"]
)
def test_a_peer_on_a_third_host_keeps_its_connection(overlay: Rig, address: str) -> None:
    alpha, beta, gamma = (overlay.node(name) for name in ("alpha", "beta", "gamma"))
    argv = [*REDIS, "--bind", "*", "-::*"]
    redis = alpha.start_container("redis", ip=REDIS_ADDRESS, argv=argv)
    alpha.run(["ip", "-batch", "-"], input=f"link set v-redis master ov0 mtu {MTU}\n")
    alpha.run(["ip", "-n", "redis", "-batch", "-"], input=addresses(REDIS_HOST))
    gamma.run(["ip", "-batch", "-"], input=PEER.format(mtu=MTU))
    gamma.run(["ip", "-n", "peer", "-batch", "-"], input=addresses(PEER_HOST))
    ping = ["ip", "netns", "exec", "peer", "ping", "-c1", "-W1", address]
    until(lambda: gamma.run(ping, check=False).returncode == 0, "the overlay to carry packets")
    mac = alpha.run(
        ["ip", "netns", "exec", "redis", "cat", "/sys/class/net/eth0/address"]
    ).stdout.strip()
    hosts = Hosts(rig=overlay, alpha=alpha, beta=beta)
    with RedisClient(Peer(gamma), address) as client:  # type: ignore[arg-type]
        for _ in range(2):
            assert remote(gamma, mac) == redis.node.address
            redis, _ = hosts.move(redis, redis.node)
            window = client.mark("moved")
            assert window["contiguous"], window
            assert remote(gamma, mac) == redis.node.address
        seen = client.finish()
    assert seen["contiguous"]
    assert seen["reconnects"] == 0
    details = redis.node.run(
        ["ip", "-n", "redis", "-o", "address", "show", "dev", "eth0", "scope", "global"]
    ).stdout
    assert f"{V4.format(REDIS_HOST)}/24" in details
    assert f"{V6.format(REDIS_HOST)}/64" in details
    assert redis.node.run(
        ["ip", "netns", "exec", "redis", "cat", "/sys/class/net/eth0/mtu"]
    ).stdout.strip() == str(MTU)
