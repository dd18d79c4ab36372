"""The switch-over of a container's links and addresses, by ioctl and raw frames.

The container is frozen during the switch-over. Therefore no program is started: an ioctl or a frame
takes microseconds. (To take a link down may take the kernel milliseconds.)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from checkpoint.errors import NetworkError
from checkpoint.host import kernel
from checkpoint.host.ready import ready
from checkpoint.host.worker import Worker
from checkpoint.network.model import Network

T = TypeVar("T")

#: include/uapi/linux/sockios.h, include/uapi/linux/if.h, include/uapi/linux/if_ether.h
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1
ETH_P_ARP, ETH_P_IPV6, ETH_P_ALL = 0x0806, 0x86DD, 0x0003
BROADCAST = b"\xff" * 6
ARP_REQUEST, ARP_REPLY = 1, 2
#: Ethernet and IPv4: the types and lengths of their addresses (RFC 826).
ARP_OF_IPV4 = struct.pack("!HHBB", 1, 0x0800, 6, 4)
#: The header of Ethernet and all of ARP.
ARP_FRAME_BYTES = 42
#: The wait for stations that use an address ends when so many answered. One is too many already.
MOST_STATIONS = 16


def set_link(name: str, *, up: bool) -> None:
    """Bring a link of this process's namespace up or down (netdevice(7)). Raises NetworkError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            request = struct.pack("16sH14x", name.encode(), 0)
            flags = struct.unpack("16sH14x", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
            flags = flags | IFF_UP if up else flags & ~IFF_UP
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", name.encode(), flags))
        except OSError as error:
            raise NetworkError(
                f"cannot set link {name} {'up' if up else 'down'}: {error.strerror}"
            ) from error


class Announcer:
    """The announcement of a container's addresses, ready to be sent from the container's namespace.

    The sockets are opened in that namespace on creation, which raises NetworkError if it fails.
    `announce` only sends.
    """

    def __init__(self, network: Network) -> None:
        self._frames: list[tuple[socket.socket, list[bytes]]] = []
        with contextlib.ExitStack() as opened:
            for interface in network.interfaces:
                frames = [
                    _announcement(interface.mac, address.split("/")[0])
                    for address in interface.addresses
                ]
                sock = in_netns(network.path, partial(_packet_socket, interface.name, ETH_P_ARP))
                self._frames.append((opened.enter_context(sock), frames))
            self._sockets = opened.pop_all()

    def announce(self) -> None:
        """Send a gratuitous ARP (RFC 5227, 3) or unsolicited NA (RFC 4861, 7.2.6) per address."""
        for sock, frames in self._frames:
            for frame in frames:
                # The queue may be full, or the link may have no carrier yet. Neighbours then learn
                # from the container's own traffic.
                with contextlib.suppress(OSError):
                    sock.send(frame)

    def close(self) -> None:
        self._sockets.close()


def stations_using(address: str, link: str, wait_s: float = 0.25) -> set[str]:
    """Return the MAC addresses of stations on the network of `link` that answer for `address`.

    `address` is an IPv4 address, for which an ARP probe is sent (RFC 5227, 2.1.1). Answers are
    waited for during `wait_s` seconds. Any station on that network can answer, truthfully or not,
    and can send anything else. Therefore no more than MOST_STATIONS answers are waited for. Raises
    NetworkError.
    """
    found: set[str] = set()
    deadline = time.monotonic() + wait_s
    try:
        wanted = socket.inet_aton(address)
        with _packet_socket(link, ETH_P_ARP) as sock:
            sock.send(_arp(sock.getsockname()[4], b"\0" * 4, wanted))
            while len(found) < MOST_STATIONS and (left := deadline - time.monotonic()) > 0:
                if ready(sock.fileno(), timeout_s=left) and (
                    mac := answered(sock.recv(ARP_FRAME_BYTES), wanted)
                ):
                    found.add(mac.hex(":"))
    except OSError as error:
        raise NetworkError(
            f"cannot ask on {link} who has {address}: {error.strerror or error}"
        ) from error
    return found


def answered(frame: bytes, wanted: bytes) -> bytes | None:
    """Return the MAC address that an ARP reply gives for the IPv4 address `wanted` (4 bytes).

    Returns None for any other frame. A reply to another station counts as well, and so does a reply
    that a proxy sends for the station.
    """
    if len(frame) < ARP_FRAME_BYTES:  # not a station's own: Ethernet pads frames to more
        return None
    kind, formats, operation, mac, address = struct.unpack_from("!H6sH6s4s", frame, 12)
    reply = (kind, formats, operation, address) == (ETH_P_ARP, ARP_OF_IPV4, ARP_REPLY, wanted)
    return bytes(mac) if reply else None


def in_netns(path: str, action: Callable[[], T]) -> T:
    """Run `action` in a thread that has entered the network namespace bound at `path`.

    Only the thread enters, because setns(2) is per thread. Returns the result of `action`. Raises
    NetworkError for any failure, of `action` or before it.
    """

    def entered() -> T:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            kernel.setns(fd, kernel.CLONE_NEWNET)
        finally:
            os.close(fd)
        return action()

    try:
        return Worker("netns", entered).result()
    except Exception as error:
        raise NetworkError(f"in {path}: {error}") from error


def _packet_socket(link: str, protocol: int) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    try:
        sock.bind((link, protocol))
    except OSError:
        sock.close()
        raise
    return sock


def _arp(mac: bytes, sender: bytes, target: bytes) -> bytes:
    """Return an ARP request in an Ethernet frame (RFC 826)."""
    ethernet = BROADCAST + mac + struct.pack("!H", ETH_P_ARP)
    return ethernet + struct.pack(
        "!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, ARP_REQUEST, mac, sender, b"\0" * 6, target
    )


def _announcement(mac_text: str, address: str) -> bytes:
    mac = bytes.fromhex(mac_text.replace(":", ""))
    if ":" not in address:
        packed = socket.inet_aton(address)
        return _arp(mac, packed, packed)
    source, all_nodes = (
        socket.inet_pton(socket.AF_INET6, address),
        socket.inet_pton(socket.AF_INET6, "ff02::1"),
    )
    # Neighbour advertisement, Override flag, with the target link-layer address option.
    body = struct.pack("!BBHI16sBB6s", 136, 0, 0, 0x20000000, source, 2, 1, mac)
    pseudo = source + all_nodes + struct.pack("!II", len(body), 58)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + all_nodes
    return bytes.fromhex("333300000001") + mac + struct.pack("!H", ETH_P_IPV6) + header + body


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
