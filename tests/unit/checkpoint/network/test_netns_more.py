"""checkpoint/network/netns.py on real namespaces: what cannot be made leaves nothing, what cannot be moved is named."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from checkpoint.errors import NetworkError, NotMovable
from checkpoint.network import netns
from checkpoint.network.model import Interface, Network, Route
from tests.unit.forked import CLONE_NEWNET, CLONE_NEWNS, forked

#: With a network and mounts of its own, which end with it.
apart = partial(forked, unshare=CLONE_NEWNS | CLONE_NEWNET)

INTERFACE = Interface(
    name="eth0",
    mac="02:00:00:00:00:01",
    mtu=1400,
    addresses=("10.9.0.2/24",),
    host_name="host0",
    bridge=None,
)


def ip(words: str, netns: str | None = None) -> str:
    argv = ["ip", *words.split()]
    if netns is not None:
        argv = ["nsenter", f"--net={netns}", *argv]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def links() -> set[str]:
    """The links of this process's own namespace."""
    return {line.split(": ")[1].partition("@")[0] for line in ip("-o link").splitlines()}


@pytest.fixture
def wanted(tmp_path: Path) -> Network:
    """A network whose namespace is bound somewhere."""
    return Network(path=str(tmp_path / "net"), interfaces=(INTERFACE,), routes=())


def with_interface(wanted: Network, **changes: str | tuple[str, ...]) -> Network:
    return replace(wanted, interfaces=(replace(INTERFACE, **changes),))  # type: ignore[arg-type]


def nothing_is_made(wanted: Network, said: str, before: Callable[[], object]) -> None:
    """A network is refused for that reason, and is not there in part either."""

    def body() -> None:
        before()
        links_before, there = links(), Path(wanted.path).exists()
        with pytest.raises(NetworkError, match=said):
            netns.create(wanted)
        assert links() == links_before
        assert Path(wanted.path).exists() is there

    apart(body)


def test_a_name_that_is_taken(wanted: Network) -> None:
    nothing_is_made(
        wanted,
        "there already is a link named host0",
        lambda: ip("link add host0 type bridge"),
    )


def test_a_namespace_that_is_there(wanted: Network) -> None:
    nothing_is_made(wanted, "exists already", Path(wanted.path).touch)


def test_a_bridge_that_is_not_there(wanted: Network) -> None:
    wanted = with_interface(wanted, bridge="br7")
    nothing_is_made(wanted, "there is no bridge named br7 for host0", lambda: None)


@pytest.mark.parametrize(
    "changes",
    [{"mac": "ff:ff:ff:ff:ff:ff"}, {"addresses": ("10.9.0.2/24", "10.9.0.400/24")}],
)
def test_a_command_that_fails(wanted: Network, changes: dict[str, str]) -> None:
    nothing_is_made(with_interface(wanted, **changes), "cannot build the network", lambda: None)


def test_a_route_that_cannot_be_made(wanted: Network) -> None:
    route = Route(
        family=4,
        destination="10.2.0.0/16",
        gateway="10.9.0.1",
        interface="eth7",
        metric=None,
        source=None,
    )
    nothing_is_made(replace(wanted, routes=(route,)), "cannot build the network", lambda: None)


def test_a_place_that_cannot_be_bound(wanted: Network) -> None:
    """It is a directory's name that is too long, of which the file is never made."""
    wanted = replace(wanted, path=f"{Path(wanted.path).parent}/{'x' * 300}")
    with pytest.raises((NetworkError, OSError), match="too long"):
        netns.create(wanted)


def test_a_link_on_a_bridge(wanted: Network) -> None:
    wanted = with_interface(wanted, bridge="br7")

    def body() -> None:
        ip("link add br7 type bridge")
        netns.create(wanted)
        assert netns.read(wanted.path).interfaces == wanted.interfaces
        assert "state DOWN" in ip("link show host0"), "nobody hears of the container yet"

    apart(body)


def test_a_namespace_that_ip_knows(wanted: Network) -> None:
    wanted = replace(wanted, path="/run/netns/test-netns-more")

    def body() -> None:
        subprocess.run(["mount", "-t", "tmpfs", "test", "/run"], check=True)
        parts = netns.create(wanted)
        assert "test-netns-more" in ip("netns list")
        parts.remove()
        assert ip("netns list") == ""
        assert links() == {"lo"}

    apart(body)


def test_parts_that_are_there(wanted: Network) -> None:
    def body() -> None:
        netns.create(wanted).close()
        parts = netns.Parts.of(wanted)
        parts.remove()
        parts.remove()  # what is gone is ignored
        assert links() == {"lo"}
        with pytest.raises(OSError):
            netns.Parts.of(wanted)

    apart(body)


def test_parts_that_have_the_name_again_stay(wanted: Network) -> None:
    def body() -> None:
        parts = netns.create(wanted)
        ip("link delete host0")
        ip("link add host0 type bridge")
        subprocess.run(["umount", "--lazy", wanted.path], check=True)
        Path(wanted.path).unlink()
        Path(wanted.path).write_text("somebody else's")
        parts.remove()
        assert "host0" in links()
        assert Path(wanted.path).read_text() == "somebody else's"

    apart(body)


# --- what cannot be moved --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("link add eth1 type bridge", "interface eth1 is of type bridge; only veth"),
        ("link add eth1 type veth peer name inner", "has its other end in a namespace"),
    ],
)
def test_an_interface_that_cannot_be_moved(wanted: Network, words: str, said: str) -> None:
    def body() -> None:
        netns.create(wanted)
        ip(words, wanted.path)
        with pytest.raises(NotMovable, match=said):
            netns.read(wanted.path)

    apart(body)


def test_a_namespace_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"cannot read address of .*none"):
        netns.read(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("changes", "left_out"),
    [
        ({}, True),
        ({"link_type": "gre"}, True),
        ({"flags": ["NOARP", "UP"]}, False),
        ({"addr_info": [{"local": "10.0.0.1"}]}, False),
        ({"link_type": "ether"}, False),
    ],
)
def test_a_device_that_the_kernel_puts_everywhere(
    changes: dict[str, object], left_out: bool
) -> None:
    link = {"ifname": "tunl0", "link_type": "ipip", "flags": ["NOARP"], "addr_info": [], **changes}
    assert netns._is_kernel_fallback(link) is left_out
