"""Removal of what the host's conntrack remembers of the connections of an address.

A container may come back to a host with connections that conntrack on that host still remembers
from an earlier time. The sequence numbers of these connections have moved on since. Every packet
would then be `ct state invalid`, and firewalls drop such packets (netavark's does). Kernel:
net/netfilter/nf_conntrack_netlink.c; messages as in linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator

from checkpoint.errors import NetworkError

#: The port of the kernel in a struct sockaddr_nl. Messages from other ports are ignored, because
#: processes of root can send to a netlink socket as well.
KERNEL = 0
NETLINK_NETFILTER, CTNETLINK = 12, 1
GET, DELETE = 1, 2
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR = 0x1, 0x4, 0x300, 3, 2
TUPLE_ORIG, TUPLE_REPLY, ZONE = 1, 2, 18
TUPLE_IP, ADDRESSES = 1, (1, 2, 3, 4)
TYPE_MASK = 0x3FFF
HEADER, FAMILY, ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("!BBH"), struct.Struct("=HH")
RECEIVE_BYTES, TIMEOUT_S = 1 << 17, 5.0


def forget(addresses: Iterable[str]) -> None:
    """Delete the conntrack entries of connections from or to these addresses ("ADDRESS/PREFIX").

    Does nothing if there are no entries, or conntrack is not in use. Raises NetworkError if the
    kernel's messages are not as in netlink(7).
    """
    wanted = {ipaddress.ip_interface(address).ip.packed for address in addresses}
    if not wanted:
        return
    with (
        contextlib.suppress(OSError),  # no conntrack or no nfnetlink in this kernel, or none yet
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink,
    ):
        netlink.settimeout(TIMEOUT_S)
        netlink.bind((0, 0))
        for family, entry in list(entries(netlink)):
            if wanted & set(addresses_in(entry)):
                _delete(netlink, family, entry)


def entries(netlink: socket.socket) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Yield (address family, attributes) of each connection. Raises NetworkError and OSError."""
    netlink.send(message(GET, NLM_F_DUMP, 0, b""))
    while True:
        data, _, flags, sender = netlink.recvmsg(RECEIVE_BYTES)
        if sender[0] != KERNEL:
            continue
        if flags & socket.MSG_TRUNC:
            raise NetworkError(f"conntrack sent a datagram of more than {RECEIVE_BYTES} bytes")
        for kind, body in messages_in(data):
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                return
            yield body[0], attributes_in(body[FAMILY.size :])


def messages_in(datagram: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield (type, content) of each message in a datagram. Raises NetworkError.

    The content is that behind the struct nlmsghdr.
    """
    data = memoryview(datagram)
    while data:
        if len(data) < HEADER.size:
            raise NetworkError(f"conntrack sent {len(data)} bytes behind a message")
        length, kind, *_ = HEADER.unpack_from(data)
        least = HEADER.size if kind in (NLMSG_DONE, NLMSG_ERROR) else HEADER.size + FAMILY.size
        if not least <= length <= len(data):
            raise NetworkError(f"conntrack sent a message of {length} bytes in {len(data)}")
        yield kind, data[HEADER.size : length]
        data = data[_aligned(length) :]


def _delete(netlink: socket.socket, family: int, entry: dict[int, bytes]) -> None:
    named = b"".join(attribute(kind, entry[kind]) for kind in (TUPLE_ORIG, ZONE) if kind in entry)
    netlink.send(message(DELETE, NLM_F_ACK, family, named))
    netlink.recv(RECEIVE_BYTES)  # ignored: the connection may have ended meanwhile


def message(kind: int, flags: int, family: int, attributes: bytes) -> bytes:
    """Return a netlink message to conntrack with these attributes, one behind the other."""
    length = HEADER.size + FAMILY.size + len(attributes)
    header = HEADER.pack(length, CTNETLINK << 8 | kind, flags | NLM_F_REQUEST, 1, 0)
    return header + FAMILY.pack(family, 0, 0) + attributes


def addresses_in(entry: dict[int, bytes]) -> Iterator[bytes]:
    """Yield the addresses of a connection, packed, as its packets have them in both directions."""
    for direction in (TUPLE_ORIG, TUPLE_REPLY):
        addresses = attributes_in(attributes_in(entry.get(direction, b"")).get(TUPLE_IP, b""))
        yield from (value for kind, value in addresses.items() if kind in ADDRESSES)


def attributes_in(data: bytes | memoryview) -> dict[int, bytes]:
    """Return type -> content of the attributes in a message, or in another attribute.

    The layout is that of struct nlattr. Raises NetworkError.
    """
    found, data = {}, memoryview(data)
    while data:
        if len(data) < ATTRIBUTE.size:
            raise NetworkError(f"conntrack sent {len(data)} bytes behind an attribute")
        length, kind = ATTRIBUTE.unpack_from(data)
        if not ATTRIBUTE.size <= length <= len(data):
            raise NetworkError(f"conntrack sent an attribute of {length} bytes in {len(data)}")
        found[kind & TYPE_MASK] = bytes(data[ATTRIBUTE.size : length])
        data = data[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    """Return a length rounded up as NLMSG_ALIGN and NLA_ALIGN do.

    The last message of a datagram, and the last attribute, need not be padded.
    """
    return (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute (struct nlattr), padded for another one behind it."""
    nested = 0x8000 if kind == TUPLE_ORIG else 0
    return (
        ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind | nested)
        + value
        + b"\0" * (-len(value) % 4)
    )
