"""Tests of migrate/network/target.py, on real links: silence until the network is connected."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from checkpoint.errors import NetworkError
from checkpoint.network import conntrack
from checkpoint.network.link import in_netns
from checkpoint.network.model import Interface, Network
from checkpoint.undo import Undo
from migrate.network.target import TargetNetwork
from tests.unit.helpers.forked import CLONE_NEWNET, CLONE_NEWNS, forked

apart = partial(forked, unshare=CLONE_NEWNS | CLONE_NEWNET)
MAC, OTHER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
KIND = b"\x88\xb5"  # for local experiments (IEEE 802)
ETH_P_ALL = 3
INTERFACE = Interface(
    name="eth0",
    mac=MAC.hex(":"),
    mtu=1500,
    addresses=("10.9.0.2/24",),
    host_name="host0",
    bridge=None,
)


@dataclass
class Made:
    """A network on the target, what undoes it, and the lines that it has logged."""

    network: TargetNetwork
    undo: Undo = field(default_factory=Undo)
    tidy: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    said: list[str] = field(default_factory=list)


def made(path: Path | None) -> Made:
    """Make a network at a path, or with None one that an engine makes later."""
    undo, tidy, said = Undo(), contextlib.ExitStack(), list[str]()
    wanted = None
    if path is not None:
        wanted = Network(path=str(path), interfaces=(INTERFACE,), routes=())
    return Made(TargetNetwork(wanted, undo, tidy, said.append), undo, tidy, said)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def is_up() -> bool:
    told = subprocess.run(["ip", "-o", "link", "show", "host0"], check=True, capture_output=True)
    return b"UP" in told.stdout.partition(b"<")[2].partition(b">")[0].split(b",")


def end_of(link: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.bind((link, ETH_P_ALL))
    end.settimeout(5)
    return end


#: The host's end of the container's link, which hears what the container sends, and the
#: container's end.
host_end, container_end = partial(end_of, "host0"), partial(end_of, "eth0")


def frame(to: bytes, number: int) -> bytes:
    return (to + OTHER + KIND).ljust(60, b"%d" % number)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the namespace. This host forgets no connections."""
    monkeypatch.setattr(conntrack, "forget", lambda addresses: None)
    return tmp_path / "net"


def test_a_network_is_silent_until_it_is_connected(path: Path) -> None:
    def body() -> None:
        found = made(path)
        assert not is_up()
        found.network.connect()
        assert is_up()
        with host_end() as end:
            found.network.announce()
            # By ARP: the kernel sends frames of its own when a link comes up.
            while end.recv(2048)[6:14] != MAC + b"\x08\x06":
                pass
        assert found.said == []
        found.tidy.close()

    apart(body)


def test_a_roll_back_removes_the_network(path: Path) -> None:
    def body() -> None:
        found = made(path)
        found.tidy.close()
        found.undo.close()
        assert not path.exists()
        with pytest.raises(OSError, match="no interface with this name"):
            socket.if_nametoindex("host0")

    apart(body)


def test_frames_of_both_hosts_reach_the_container(path: Path) -> None:
    """Frames that the source has kept come first, then those that came on the target."""

    def body() -> None:
        found = made(path)
        late = [bytes(10) + frame(MAC, 1), bytes(10) + frame(OTHER, 2)]
        for each in late:
            found.network.bring(0, memoryview(each))
        found.network.connect()
        with host_end() as end:
            end.send(frame(MAC, 3))
            found.network.take_frames()
        received: list[bytes] = []

        with in_netns(str(path), container_end) as inner:
            found.network.give_frames()
            while len(received) < 2:
                if (heard := inner.recv(2048))[12:14] == KIND:
                    received.append(heard)
        assert received == [frame(MAC, 1), frame(MAC, 3)]
        found.tidy.close()

    apart(body)


def test_a_network_that_an_engine_has_made_is_taken_down(path: Path) -> None:
    def body() -> None:
        engine = made(path)
        ip("link", "set", "host0", "up")
        found = made(None)
        found.network.announce()  # there is nothing to announce yet
        found.network.adopt(str(path))
        assert not is_up()
        found.network.connect()
        assert is_up()
        found.undo.close()
        assert path.exists(), "it is the engine's"
        for each in (found, engine):
            each.tidy.close()

    apart(body)


def test_a_link_that_stays_down_is_told(path: Path) -> None:
    """The failure is only told, because an unreachable container is better than none."""

    def body() -> None:
        found = made(path)
        ip("link", "delete", "host0")
        found.network.connect()
        assert found.said == ["cannot set link host0 up: No such device"]
        found.tidy.close()

    apart(body)


def test_a_network_that_cannot_be_made_is_an_error(path: Path) -> None:
    def body() -> None:
        path.touch()
        with pytest.raises(NetworkError, match="exists already"):
            made(path)

    apart(body)
