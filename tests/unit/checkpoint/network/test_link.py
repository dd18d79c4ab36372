"""Tests of checkpoint/network/link.py, on a link whose other end sends anything."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from checkpoint.errors import NetworkError
from checkpoint.network.link import (
    ARP_FRAME_BYTES,
    MOST_STATIONS,
    Announcer,
    answered,
    stations_using,
)
from checkpoint.network.model import Interface, Network
from tests.unit.checkpoint.network.links import on_a_link

ETH_P_ARP, ETH_P_ALL = 0x0806, 0x0003
ADDRESS, OTHER = socket.inet_aton("10.7.0.9"), socket.inet_aton("10.7.0.8")
STATION = bytes.fromhex("0200000000aa")
#: The function that answers the first frame that a station receives.
Answer = Callable[[socket.socket, bytes], object]


def reply(
    address: bytes = ADDRESS, mac: bytes = STATION, operation: int = 2, size: int = 60
) -> bytes:
    """Return an ARP frame by which a station says that it has an address, cut to a size."""
    arp = struct.pack(
        "!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, operation, mac, address, bytes(6), bytes(4)
    )
    return (b"\xff" * 6 + mac + struct.pack("!H", ETH_P_ARP) + arp).ljust(60, b"\0")[:size]


def asked(answer: Answer, wait_s: float = 0.25) -> set[str]:
    """Return what `stations_using` finds on a link with such a station at the other end."""

    def body() -> set[str]:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP)) as station:
            station.bind(("far", ETH_P_ARP))
            station.settimeout(5)
            thread = threading.Thread(target=lambda: answer(station, station.recv(2048)))
            thread.start()  # the thread inherits the namespace
            try:
                return stations_using("10.7.0.9", "near", wait_s)
            finally:
                thread.join()

    return on_a_link(body)


def test_an_announcer_that_cannot_open_all_sockets_keeps_none() -> None:
    def body() -> int:
        namespace = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
        interfaces = tuple(
            Interface(
                name=name,
                mac="02:00:00:00:00:01",
                mtu=1500,
                addresses=(),
                host_name="x",
                bridge=None,
            )
            for name in ("near", "none")
        )
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(NetworkError, match="No such device") as caught:
            Announcer(Network(path=namespace, interfaces=interfaces, routes=()))
        left = len(os.listdir("/proc/self/fd")) - before
        assert caught.tb is not None  # objects of the traceback are not collected yet
        return left

    assert on_a_link(body) == 0


def test_a_station_that_has_the_address_is_found() -> None:
    assert asked(lambda station, _: station.send(reply())) == {"02:00:00:00:00:aa"}


def test_a_station_that_has_another_address_is_not_found() -> None:
    assert asked(lambda station, _: station.send(reply(OTHER))) == set()


def test_runt_frames_are_passed_over() -> None:
    """A driver sends whatever a program with CAP_NET_RAW gives it."""

    def answer(station: socket.socket, _: bytes) -> None:
        for size in range(14, ARP_FRAME_BYTES):
            station.send(reply(size=size))
        station.send(reply())

    assert asked(answer) == {"02:00:00:00:00:aa"}


def test_a_flood_ends_when_the_time_is_over() -> None:
    def answer(station: socket.socket, _: bytes) -> None:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            station.send(reply(OTHER))

    began = time.monotonic()
    assert asked(answer) == set()
    assert time.monotonic() - began < 5


def test_not_more_stations_are_waited_for_than_one_would_want_to_know() -> None:
    def answer(station: socket.socket, _: bytes) -> None:
        for number in range(10 * MOST_STATIONS):
            station.send(reply(mac=b"\x02" + number.to_bytes(5)))

    assert len(asked(answer, wait_s=5)) == MOST_STATIONS


def test_a_link_that_is_not_there_is_a_network_error() -> None:
    with pytest.raises(NetworkError, match="nowhere"):
        stations_using("10.7.0.9", "nowhere")
    with pytest.raises(NetworkError, match="no-address"):
        stations_using("no-address", "lo")


@pytest.mark.parametrize("size", range(60))
def test_a_frame_that_is_cut_short_is_no_answer(size: int) -> None:
    assert answered(reply()[:size], ADDRESS) == (STATION if size >= ARP_FRAME_BYTES else None)


@pytest.mark.parametrize("at", [12, 14, 16, 18, 19, 20, 31])
def test_a_frame_of_another_kind_is_no_answer(at: int) -> None:
    frame = bytearray(reply())
    frame[at] ^= 1
    assert answered(bytes(frame), ADDRESS) is None
