"""Tests of checkpoint/network/netns.py, on real namespaces: what is read can be made again."""

from __future__ import annotations

import ctypes
import os
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.errors import NetworkError, NotMovable
from checkpoint.network import netns
from checkpoint.network.model import Interface, Network, Route

CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000


def apart(body: Callable[[], object]) -> None:
    """Run a function in a process with a network and mounts of its own, which end with it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert ctypes.CDLL(None).unshare(CLONE_NEWNS | CLONE_NEWNET) == 0
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            body()
            status = 0
        except BaseException:  # noqa: BLE001  (the parent fails the test)
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


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
        parts = netns.create(wanted)
        found = netns.read(wanted.path)
        assert found.interfaces == wanted.interfaces
        assert sorted(map(repr, found.routes)) == sorted(map(repr, wanted.routes))
        parts.remove()
        assert not Path(wanted.path).exists()

    apart(body)


@pytest.mark.parametrize("name", ["a", "up", "mtu", "name", "a+b", "a@b", "_x.1-2"])
def test_interfaces_of_any_name_are_made_and_read(tmp_path: Path, name: str) -> None:
    """Some names are words of ip(8) as well."""
    wanted = Network(path=str(tmp_path / "net"), interfaces=(interface(name),), routes=())

    def body() -> None:
        netns.create(wanted)
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
        netns.create(wanted)
        subprocess.run(["nsenter", f"--net={wanted.path}", "ip", *words.split()], check=True)
        with pytest.raises(NotMovable, match=told):
            netns.read(wanted.path)

    apart(body)


def test_routes_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="cannot read -4 route of"):
        netns.routes_of(str(tmp_path / "none"), 4)
