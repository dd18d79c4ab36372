"""Tests of checkpoint/network/netns.py, on real namespaces: what is read can be made again."""

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
from checkpoint.undo import Undo
from tests.unit.helpers.forked import CLONE_NEWNET, CLONE_NEWNS, forked


def interface(name: str = "eth0") -> Interface:
    return Interface(
        name=name,
        mac="02:00:00:00:00:01",
        mtu=1400,
        addresses=("10.9.0.2/24", "fd00::2/64"),
        host_name="host0",
        bridge=None,
    )


def route(destination: str, *, family: int = 4, **words: str | int | None) -> Route:
    return Route(
        **{  # type: ignore[arg-type]
            "family": family,
            "destination": destination,
            "gateway": None,
            "interface": "eth0",
            "metric": 1024 if family == 6 else None,
            **words,
        }
    )


ROUTES = (
    route("default", gateway="10.9.0.1"),
    route("10.2.0.0/16", gateway="10.9.0.1", metric=7),
    route("10.3.0.0/16", interface="lo"),
    route("10.4.0.0/16", source="10.9.0.2"),
    route("fd02::/64", family=6, gateway="fd00::1", metric=5),
    route("fd02::/64", family=6, gateway="fd00::3", metric=6),
    route("default", family=6, gateway="fd00::1"),
)


def test_a_network_is_read_as_it_was_made(tmp_path: Path) -> None:
    wanted = Network(path=str(tmp_path / "net"), interfaces=(interface(),), routes=ROUTES)

    def body() -> None:
        with Undo() as undo:
            netns.create(wanted, undo)
            found = netns.read(wanted.path)
            assert found.interfaces == wanted.interfaces
            assert sorted(map(repr, found.routes)) == sorted(map(repr, wanted.routes))
        assert not Path(wanted.path).exists()

    apart(body)


@pytest.mark.parametrize("name", ["a", "up", "mtu", "name", "a+b", "a@b", "_x.1-2"])
def test_interfaces_of_any_name_are_made_and_read(tmp_path: Path, name: str) -> None:
    """Some names are words of ip(8) as well."""
    wanted = Network(path=str(tmp_path / "net"), interfaces=(interface(name),), routes=())

    def body() -> None:
        netns.create(wanted, Undo())
        assert netns.read(wanted.path).interfaces == wanted.interfaces

    apart(body)


@pytest.mark.parametrize(
    "name", [".x", "@x", "+x", "-x", "a b", "a\\b", "\N{LATIN SMALL LETTER E WITH ACUTE}"]
)
def test_names_that_the_target_would_not_take_are_refused(name: str) -> None:
    with pytest.raises(NotMovable, match="has a name"):
        netns.interface_of({"ifname": name, "link_type": "ether"}, {})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("-4 route add blackhole 10.1.0.0/16", "10.1.0.0/16 is blackhole"),
        ("-6 route add unreachable fd01::/64", "fd01::/64 is unreachable"),
        (
            "-4 route add 10.2.0.0/16 nexthop via 10.9.0.3 dev eth0 nexthop via 10.9.0.4 dev eth0",
            "10.2.0.0/16 is no plain",
        ),
        ("-6 route add fd02::/64 nexthop via fd00::3 nexthop via fd00::4", "fd02::/64 is no plain"),
        ("-4 route add 10.4.0.0/16 via inet6 fe80::1 dev eth0", "10.4.0.0/16 is no plain"),
        ("-4 route add 10.5.0.0/16 via 10.9.0.1 tos 0x10", "10.5.0.0/16 is no plain"),
    ],
)
def test_routes_that_would_be_others_are_refused(tmp_path: Path, words: str, told: str) -> None:
    wanted = Network(path=str(tmp_path / "net"), interfaces=(interface(),), routes=())

    def body() -> None:
        netns.create(wanted, Undo())
        subprocess.run(["nsenter", f"--net={wanted.path}", "ip", *words.split()], check=True)
        with pytest.raises(NotMovable, match=told):
            netns.read(wanted.path)

    apart(body)


def test_routes_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="cannot read -4 route of"):
        netns.routes_of(str(tmp_path / "none"), 4)


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
    """Return the names of the links of this process's own namespace."""
    return {line.split(": ")[1].partition("@")[0] for line in ip("-o link").splitlines()}


@pytest.fixture
def wanted(tmp_path: Path) -> Network:
    """Return a network whose namespace is to be bound in a directory of the test."""
    return Network(path=str(tmp_path / "net"), interfaces=(INTERFACE,), routes=())


def with_interface(wanted: Network, **changes: str | tuple[str, ...]) -> Network:
    return replace(wanted, interfaces=(replace(INTERFACE, **changes),))  # type: ignore[arg-type]


def nothing_is_made(wanted: Network, said: str, before: Callable[[], object]) -> None:
    """Check that a network is refused with these words, and that no part of it is made."""

    def body() -> None:
        before()
        links_before, there = links(), Path(wanted.path).exists()
        with Undo() as undo, pytest.raises(NetworkError, match=said):
            netns.create(wanted, undo)
        assert links() == links_before
        assert Path(wanted.path).exists() is there

    apart(body)


def test_where_the_name_of_a_link_is_taken_nothing_is_made(wanted: Network) -> None:
    nothing_is_made(
        wanted,
        "there already is a link named host0",
        lambda: ip("link add host0 type bridge"),
    )


def test_where_the_namespace_exists_nothing_is_made(wanted: Network) -> None:
    nothing_is_made(wanted, "exists already", Path(wanted.path).touch)


def test_without_the_bridge_nothing_is_made(wanted: Network) -> None:
    wanted = with_interface(wanted, bridge="br7")
    nothing_is_made(wanted, "there is no bridge named br7 for host0", lambda: None)


@pytest.mark.parametrize(
    "changes",
    [{"mac": "ff:ff:ff:ff:ff:ff"}, {"addresses": ("10.9.0.2/24", "10.9.0.400/24")}],
)
def test_after_a_command_that_fails_nothing_is_left(
    wanted: Network, changes: dict[str, str]
) -> None:
    nothing_is_made(with_interface(wanted, **changes), "cannot build the network", lambda: None)


def test_after_a_route_that_cannot_be_made_nothing_is_left(wanted: Network) -> None:
    route = Route(
        family=4,
        destination="10.2.0.0/16",
        gateway="10.9.0.1",
        interface="eth7",
        metric=None,
        source=None,
    )
    nothing_is_made(replace(wanted, routes=(route,)), "cannot build the network", lambda: None)


def test_a_path_that_cannot_be_bound_is_an_error(wanted: Network) -> None:
    """The name is too long for a file."""
    wanted = replace(wanted, path=f"{Path(wanted.path).parent}/{'x' * 300}")
    with pytest.raises((NetworkError, OSError), match="too long"):
        netns.create(wanted, Undo())


def test_a_link_on_a_bridge_is_down_at_first(wanted: Network) -> None:
    wanted = with_interface(wanted, bridge="br7")

    def body() -> None:
        ip("link add br7 type bridge")
        netns.create(wanted, Undo())
        assert netns.read(wanted.path).interfaces == wanted.interfaces
        assert "state DOWN" in ip("link show host0"), "nobody hears of the container yet"

    apart(body)


def test_ip_knows_a_namespace_in_run_netns(wanted: Network) -> None:
    wanted = replace(wanted, path="/run/netns/test-netns-more")

    def body() -> None:
        subprocess.run(["mount", "-t", "tmpfs", "test", "/run"], check=True)
        with Undo() as undo:
            netns.create(wanted, undo)
            assert "test-netns-more" in ip("netns list")
        assert ip("netns list") == ""
        assert links() == {"lo"}

    apart(body)


def test_parts_that_were_made_before_are_found_and_removed(wanted: Network) -> None:
    def body() -> None:
        netns.create(wanted, Undo())
        parts = netns.parts_of(wanted)
        for thing in (*parts, *parts):  # what is gone is ignored
            thing.remove()
        assert links() == {"lo"}
        with pytest.raises(OSError):
            netns.parts_of(wanted)

    apart(body)


def test_parts_that_have_the_name_again_stay(wanted: Network) -> None:
    def body() -> None:
        with Undo() as undo:
            netns.create(wanted, undo)
            ip("link delete host0")
            ip("link add host0 type bridge")
            subprocess.run(["umount", "--lazy", wanted.path], check=True)
            Path(wanted.path).unlink()
            Path(wanted.path).write_text("somebody else's")
        assert "host0" in links()
        assert Path(wanted.path).read_text() == "somebody else's"

    apart(body)


# --- what cannot be moved ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("link add eth1 type bridge", "interface eth1 is of type bridge; only veth"),
        ("link add eth1 type veth peer name inner", "has its other end in a namespace"),
    ],
)
def test_an_interface_of_another_kind_than_veth_cannot_be_moved(
    wanted: Network, words: str, said: str
) -> None:
    def body() -> None:
        netns.create(wanted, Undo())
        ip(words, wanted.path)
        with pytest.raises(NotMovable, match=said):
            netns.read(wanted.path)

    apart(body)


def test_a_namespace_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
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
def test_only_an_unused_tunnel_is_a_device_that_the_kernel_puts_everywhere(
    changes: dict[str, object], left_out: bool
) -> None:
    link = {"ifname": "tunl0", "link_type": "ipip", "flags": ["NOARP"], "addr_info": [], **changes}
    assert netns.is_kernel_fallback(link) is left_out
