"""Tests of checkpoint/network/conntrack.py: its messages, and what a kernel does with them."""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.errors import NetworkError
from checkpoint.network import conntrack
from checkpoint.network.conntrack import forget

CLONE_NEWNET = 0x40000000
#: Numbers of linux/netlink.h and nfnetlink_conntrack.h.
NEW, NLM_F_CREATE, NESTED = 0, 0x400, 0x8000
IP, PROTO, PORTS, PROTOINFO, TIMEOUT = 1, 2, (2, 3), 4, 7
ESTABLISHED = 3
#: The source and the destination of a connection whose addresses are not translated.
Pair = tuple[str, str]


def attribute(kind: int, value: bytes, nested: int = 0) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind | nested) + value + bytes(-len(value) % 4)


def one_way(source: str, destination: str, ports: tuple[int, int]) -> bytes:
    """Return the content of CTA_TUPLE_ORIG or CTA_TUPLE_REPLY."""
    addresses = [ipaddress.ip_address(address) for address in (source, destination)]
    kinds = (1, 2) if addresses[0].version == 4 else (3, 4)
    ip = b"".join(
        attribute(kind, address.packed) for kind, address in zip(kinds, addresses, strict=True)
    )
    proto = attribute(1, bytes([socket.IPPROTO_TCP]))
    proto += b"".join(
        attribute(kind, struct.pack("!H", port)) for kind, port in zip(PORTS, ports, strict=True)
    )
    return attribute(IP, ip, NESTED) + attribute(PROTO, proto, NESTED)


def remember(source: str, destination: str, *, zone: int = 0, answered_by: str = "") -> None:
    """Have the kernel know of a TCP connection, as if it had seen it."""
    there_and_back = (
        (source, destination, (40_000, 80)),
        (answered_by or destination, source, (80, 40_000)),
    )
    entry = b"".join(
        attribute(kind, one_way(*way), NESTED) for kind, way in enumerate(there_and_back, 1)
    )
    entry += attribute(TIMEOUT, struct.pack("!I", 600))
    entry += attribute(PROTOINFO, attribute(1, attribute(1, bytes([ESTABLISHED])), NESTED), NESTED)
    entry += attribute(conntrack.ZONE, struct.pack("!H", zone)) if zone else b""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with connected() as netlink:
        netlink.send(conntrack.message(NEW, conntrack.NLM_F_ACK | NLM_F_CREATE, family, entry))
        error = struct.unpack_from("=i", netlink.recv(1 << 16), conntrack.HEADER.size)[0]
        assert error == 0, os.strerror(-error)


def known() -> list[Pair]:
    """Return source and destination of each connection that the kernel knows of."""
    with connected() as netlink:
        entries = [list(conntrack.addresses_in(entry)) for _, entry in conntrack.entries(netlink)]
    return sorted(
        (str(ipaddress.ip_address(found[0])), str(ipaddress.ip_address(found[1])))
        for found in entries
    )


def connected() -> contextlib.closing[socket.socket]:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, conntrack.NETLINK_NETFILTER)
    netlink.settimeout(5)
    netlink.bind((0, 0))
    return contextlib.closing(netlink)


def elsewhere(test: Callable[[], None]) -> None:
    """Run a test in a thread with a network namespace of its own, which ends with the thread."""

    def enter() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")

    with ThreadPoolExecutor(1, initializer=enter) as thread:
        thread.submit(test).result()


def test_an_attribute_is_padded_and_marked_as_nested() -> None:
    assert conntrack.attribute(18, b"\0\x07") == struct.pack("=HH", 6, 18) + b"\0\x07\0\0"
    assert conntrack.attribute(1, b"1234") == struct.pack("=HH", 8, 0x8001) + b"1234"
    assert conntrack.attribute(7, b"") == struct.pack("=HH", 4, 7)


def test_attributes_are_read_by_their_type() -> None:
    data = (
        struct.pack("=HH", 5, 0x8001)
        + b"a\0\0\0"
        + struct.pack("=HH", 4, 9)
        + struct.pack("=HH", 8, 0x4002)
        + b"1234"
    )
    assert (
        conntrack.attributes_in(data)
        == conntrack.attributes_in(memoryview(data))
        == {1: b"a", 9: b"", 2: b"1234"}
    )
    assert conntrack.attributes_in(b"") == {}


def test_the_last_attribute_need_not_be_padded() -> None:
    assert conntrack.attributes_in(struct.pack("=HH", 5, 3) + b"a") == {3: b"a"}


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=20), max_size=6))
def test_attributes_are_read_as_they_were_written(wanted: dict[int, bytes]) -> None:
    data = b"".join(conntrack.attribute(kind, value) for kind, value in wanted.items())
    assert len(data) % 4 == 0
    assert conntrack.attributes_in(data) == wanted


def test_a_message_has_the_head_of_netlink() -> None:
    data = conntrack.message(conntrack.DELETE, conntrack.NLM_F_ACK, socket.AF_INET6, b"12345678")
    assert struct.unpack_from("=IHH", data) == (28, 0x0102, 0x5)
    assert struct.unpack_from("!BBH", data, 16) == (socket.AF_INET6, 0, 0)
    assert data[20:] == b"12345678"


@pytest.mark.parametrize(
    ("source", "destination"), [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")]
)
def test_the_addresses_of_both_directions_are_found(source: str, destination: str) -> None:
    entry = {
        1: one_way(source, destination, (1, 2)),
        2: one_way(destination, source, (2, 1)),
        TIMEOUT: one_way("10.9.9.9", "10.9.9.9", (3, 3)),
    }
    there, back = (ipaddress.ip_address(address).packed for address in (source, destination))
    assert list(conntrack.addresses_in(entry)) == [there, back, back, there]
    assert list(conntrack.addresses_in({1: entry[1]})) == [there, back]
    assert list(conntrack.addresses_in({})) == []


def test_a_kernel_without_conntrack_has_nothing_to_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family of netlink that no kernel has stands for that of netfilter."""
    monkeypatch.setattr(conntrack, "NETLINK_NETFILTER", 30)
    forget(["127.0.0.1/8"])


def test_forget_what_comes_from_and_goes_to_an_address() -> None:
    def test() -> None:
        remember("127.0.0.1", "127.0.0.9")
        remember("127.0.0.9", "127.0.0.1")
        remember("127.0.0.2", "127.0.0.3")
        assert len(known()) == 3
        forget(["127.0.0.1/8"])
        assert known() == [("127.0.0.2", "127.0.0.3")]
        forget(["127.0.0.1/8"])
        assert known() == [("127.0.0.2", "127.0.0.3")]

    elsewhere(test)


def test_forget_several_addresses_of_both_families() -> None:
    def test() -> None:
        remember("fd00::1", "fd00::9")
        remember("fd00::2", "fd00::9")
        remember("10.0.0.1", "10.0.0.9")
        remember("10.0.0.2", "10.0.0.9")
        forget(["fd00::1/64", "10.0.0.2/24"])
        assert known() == [("10.0.0.1", "10.0.0.9"), ("fd00::2", "fd00::9")]

    elsewhere(test)


def test_forget_where_addresses_are_translated() -> None:
    def test() -> None:
        remember("10.0.0.1", "10.0.0.9", answered_by="10.88.0.5")
        remember("10.0.0.1", "10.0.0.8", answered_by="10.88.0.6")
        forget(["10.88.0.5/16"])
        assert known() == [("10.0.0.1", "10.0.0.8")]

    elsewhere(test)


def test_forget_in_every_zone() -> None:
    def test() -> None:
        for zone in (0, 5, 6):
            remember("10.0.0.1", "10.0.0.9", zone=zone)
        remember("10.0.0.2", "10.0.0.9", zone=5)
        assert len(known()) == 4
        forget(["10.0.0.1/24"])
        assert known() == [("10.0.0.2", "10.0.0.9")]

    elsewhere(test)


def test_forget_among_more_than_one_datagram_of_others() -> None:
    def test() -> None:
        others = [(f"10.0.{number // 250}.{number % 250 + 1}", "10.1.0.1") for number in range(500)]
        for pair in (*others, ("10.2.0.1", "10.2.0.2")):
            remember(*pair)
        forget(["10.2.0.2/32"])
        assert known() == sorted(others)

    elsewhere(test)


def test_forget_where_nothing_is_known() -> None:
    def test() -> None:
        forget(["10.0.0.1/24"])
        forget([])
        assert known() == []

    elsewhere(test)


def message(kind: int, body: bytes, length: int | None = None) -> bytes:
    """Return a netlink message, which may say another length than it has."""
    size = conntrack.HEADER.size + len(body) if length is None else length
    return conntrack.HEADER.pack(size, kind, 0, 1, 0) + body


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("=HH", 0, 1),  # to step over it would be an endless loop
        struct.pack("=HH", 3, 1),
        struct.pack("=HH", 9, 1) + b"1234",
        struct.pack("=HH", 4, 1) + b"1",
        b"123",
    ],
)
def test_attributes_with_wrong_lengths_are_refused(data: bytes) -> None:
    with pytest.raises(NetworkError):
        conntrack.attributes_in(data)


@pytest.mark.parametrize(
    "datagram",
    [
        message(0x100, b"\2\0\0\0", length=0),
        message(0x100, b"\2\0\0\0", length=15),
        message(0x100, b"\2\0\0\0", length=21),
        message(0x100, b"\2\0\0"),
        message(0x100, b"\2\0\0\0") + b"more",
    ],
)
def test_messages_with_wrong_lengths_are_refused(datagram: bytes) -> None:
    with pytest.raises(NetworkError):
        list(conntrack.messages_in(datagram))


def test_messages_are_read_one_after_the_other() -> None:
    datagram = (
        message(0x100, b"\2\0\0\0")
        + message(0x101, b"\2\0\0\0")
        + message(conntrack.NLMSG_DONE, b"")
    )
    assert [kind for kind, _ in conntrack.messages_in(datagram)] == [
        0x100,
        0x101,
        conntrack.NLMSG_DONE,
    ]
    assert list(conntrack.messages_in(b"")) == []
