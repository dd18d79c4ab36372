"""Tests of checkpoint/network/link.py, on a link whose other end sends anything."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from checkpoint.errors import NetworkError
from checkpoint.network import frames, link
from checkpoint.network.frames import VIRTIO_HEADER_BYTES, FrameBuffer
from checkpoint.network.link import (
    ARP_FRAME_BYTES,
    ARP_REQUEST,
    MOST_STATIONS,
    Announcer,
    answered,
    in_netns,
    set_link,
    stations_using,
)
from checkpoint.network.model import Interface, Network
from tests.unit.checkpoint.network.links import on_a_link
from tests.unit.helpers.forked import CLONE_NEWNET, forked

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


MAC, STRANGER = "02:00:00:00:00:01", "02:00:00:00:00:02"
KIND = b"\x88\xb5"  # for local experiments (IEEE 802)
apart = partial(forked, unshare=CLONE_NEWNET)


def packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def interface(*addresses: str) -> Interface:
    return Interface(
        name="near", mac=MAC, mtu=1500, addresses=addresses, host_name="near", bridge=None
    )


def make_link(*, up: bool = True) -> None:
    """Make a link between `near` and `far`, in a namespace of this process's own."""
    for words in (
        "link add near type veth peer name far",
        *(["link set near up", "link set far up"] if up else []),
    ):
        subprocess.run(["ip", *words.split()], check=True)


@contextlib.contextmanager
def end(name: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as found:
        found.bind((name, ETH_P_ALL))
        found.settimeout(5)
        yield found


def is_up(name: str) -> bool:
    told = subprocess.run(["ip", "-o", "link", "show", name], check=True, capture_output=True)
    return b"UP" in told.stdout.partition(b"<")[2].partition(b">")[0].split(b",")


# --- a link --------------------------------------------------------------------------------------


def test_a_link_goes_up_and_down() -> None:
    def body() -> None:
        make_link(up=False)
        for up in (True, True, False, False, True):
            set_link("near", up=up)
            assert is_up("near") is up

    apart(body)


@pytest.mark.parametrize(("up", "word"), [(True, "up"), (False, "down")])
def test_a_link_that_is_not_there_is_an_error(up: bool, word: str) -> None:
    with pytest.raises(NetworkError, match=f"cannot set link nowhere {word}: No such device"):
        set_link("nowhere", up=up)


# --- an announcement -----------------------------------------------------------------------------


def announced(*addresses: str) -> list[bytes]:
    """Return the frames that reach the other end of a link when addresses are announced."""
    make_link()
    network = Network(path="/proc/self/ns/net", interfaces=(interface(*addresses),), routes=())
    with end("far") as far:
        announcer = Announcer(network)
        announcer.announce()
        announcer.close()
        found: list[bytes] = []
        while len(found) < len(addresses):
            frame = far.recv(2048)
            if frame[6:12] == packed(MAC):  # the kernel's own are of another address
                found.append(frame)
        return found


def test_an_address_is_announced_to_everybody() -> None:
    """Sender and target are the same address (RFC 5227, 3)."""

    def body() -> None:
        (frame,) = announced("10.9.0.2/24")
        assert frame[:12] == b"\xff" * 6 + packed(MAC)
        kind, *_, operation, mac, sender, _, target = struct.unpack("!HHHBBH6s4s6s4s", frame[12:42])
        assert (kind, operation, mac) == (0x0806, ARP_REQUEST, packed(MAC))
        assert sender == target == socket.inet_aton("10.9.0.2")

    apart(body)


def test_an_address_of_ipv6_is_announced_to_all_nodes() -> None:
    """The frame has the link-layer address and a right checksum (RFC 4861, 7.2.6)."""

    def body() -> None:
        _, frame = announced("10.9.0.2/24", "fd00::2/64")
        assert frame[:14] == bytes.fromhex("333300000001") + packed(MAC) + b"\x86\xdd"
        header, body = frame[14:54], frame[54:]
        assert header[8:24] == socket.inet_pton(socket.AF_INET6, "fd00::2")
        assert header[24:40] == socket.inet_pton(socket.AF_INET6, "ff02::1")
        assert (header[6], header[7]) == (58, 255), "ICMPv6 from this link (RFC 4861, 7.1.2)"
        assert (body[0], body[8:24]) == (136, header[8:24])
        assert body[24:] == bytes([2, 1]) + packed(MAC)
        pseudo = header[8:40] + struct.pack("!II", len(body), 58)
        assert link.checksum(pseudo + body) == 0

    apart(body)


def test_a_link_that_is_down_is_no_error() -> None:
    def body() -> None:
        make_link(up=False)
        network = Network(
            path="/proc/self/ns/net", interfaces=(interface("10.9.0.2/24"),), routes=()
        )
        announcer = Announcer(network)
        announcer.announce()
        announcer.close()

    apart(body)


# --- another namespace ---------------------------------------------------------------------------


def test_an_action_in_another_namespace_leaves_this_thread_where_it_is() -> None:
    def body() -> None:
        mine = os.stat("/proc/self/ns/net").st_ino
        theirs = f"/proc/{os.getppid()}/ns/net"
        look = partial(os.stat, "/proc/thread-self/ns/net")
        assert in_netns(theirs, look).st_ino == os.stat(theirs).st_ino != mine
        assert os.stat("/proc/thread-self/ns/net").st_ino == mine, "this thread has stayed"

    apart(body)


def test_a_failure_in_another_namespace_is_told_here(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=f"in {tmp_path}/none: .*No such file"):
        in_netns(f"{tmp_path}/none", lambda: 1)
    (tmp_path / "plain").touch()
    with pytest.raises(NetworkError, match="Invalid argument"):
        in_netns(f"{tmp_path}/plain", lambda: 1)
    with pytest.raises(NetworkError, match="by zero"):
        in_netns("/proc/self/ns/net", lambda: 1 // 0)


# --- frames that come in the freeze --------------------------------------------------------------


def sent(end: socket.socket, *to: str, size: int = 60) -> list[bytes]:
    """Send a frame to each of these addresses, and return the frames."""
    found = [
        (packed(mac) + packed(STRANGER) + KIND).ljust(size, b"%d" % n) for n, mac in enumerate(to)
    ]
    for frame in found:
        end.send(frame)
    return found


def test_frames_for_the_container_are_kept_and_given_to_it() -> None:
    """`near` is the host's end of the link, and `far` the container's."""

    def body() -> None:
        make_link()
        buffer = FrameBuffer(interface())
        with end("near") as host, end("far") as container:
            sent(host, MAC)  # nothing is kept yet
            buffer.keep()
            frames_sent = sent(host, MAC, STRANGER, MAC)
            kept = buffer.take()
            assert [frame[VIRTIO_HEADER_BYTES:] for frame in kept] == frames_sent[::2]
            sent(host, MAC)
            assert buffer.take() == [], "no longer kept"
            container.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while container.recv(2048):  # as it is frozen, it has got none of them
                    pass
            container.settimeout(5)
            buffer.give([kept[1], kept[0]])
            received: list[bytes] = []
            while len(received) < 2:
                frame = container.recv(2048)
                if frame[12:14] == KIND:
                    received.append(frame)
            assert received == [frames_sent[2], frames_sent[0]]
        buffer.close()

    apart(body)


@pytest.mark.parametrize(
    ("bound", "value", "kept"), [("MAX_FRAMES", 3, 3), ("MAX_BYTES", 150, 3), ("MAX_FRAME", 50, 0)]
)
def test_what_is_kept_is_bounded(
    monkeypatch: pytest.MonkeyPatch, bound: str, value: int, kept: int
) -> None:
    def body() -> None:
        make_link()
        buffer = FrameBuffer(interface())
        buffer.keep()
        with end("near") as host:
            sent(host, *[MAC] * 5)
        monkeypatch.setattr(frames, bound, value)
        assert len(buffer.take()) == kept
        buffer.close()

    apart(body)


def test_a_link_that_goes_down_loses_no_frame() -> None:
    def body() -> None:
        make_link()
        buffer = FrameBuffer(interface())
        buffer.keep()
        with end("near") as host:
            (frame,) = sent(host, MAC)
        subprocess.run(["ip", "link", "set", "near", "down"], check=True)
        assert [each[VIRTIO_HEADER_BYTES:] for each in buffer.take()] == [frame]
        buffer.give([bytes(VIRTIO_HEADER_BYTES) + frame])  # cannot be sent: it is dropped
        buffer.close()

    apart(body)


def test_an_interface_that_is_not_there_leaves_no_socket() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No such device"):
        FrameBuffer(interface())
    assert len(os.listdir("/proc/self/fd")) == before
