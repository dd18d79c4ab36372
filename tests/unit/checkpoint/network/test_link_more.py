"""checkpoint/network/link.py and frames.py: what a container's link says and keeps, on a real one."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from checkpoint.errors import NetworkError
from checkpoint.network import frames, link
from checkpoint.network.frames import VIRTIO_HEADER_BYTES, FrameBuffer
from checkpoint.network.link import ARP_REQUEST, ETH_P_ALL, Announcer, in_netns, set_link
from checkpoint.network.model import Interface, Network
from tests.unit.forked import CLONE_NEWNET, forked

MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
KIND = b"\x88\xb5"  # for local experiments (IEEE 802)
apart = partial(forked, unshare=CLONE_NEWNET)


def packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def interface(*addresses: str) -> Interface:
    return Interface(
        name="near", mac=MAC, mtu=1500, addresses=addresses, host_name="near", bridge=None
    )


def make_link(*, up: bool = True) -> None:
    """A link between `near` and `far`, in a namespace of this process's own."""
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


# --- a link ----------------------------------------------------------------------------------------


def test_a_link_goes_up_and_down() -> None:
    def body() -> None:
        make_link(up=False)
        for up in (True, True, False, False, True):
            set_link("near", up=up)
            assert is_up("near") is up

    apart(body)


@pytest.mark.parametrize(("up", "word"), [(True, "up"), (False, "down")])
def test_a_link_that_is_not_there(up: bool, word: str) -> None:
    with pytest.raises(NetworkError, match=f"cannot set link nowhere {word}: No such device"):
        set_link("nowhere", up=up)


# --- an announcement -------------------------------------------------------------------------------


def announced(*addresses: str) -> list[bytes]:
    """The frames that reach the other end of a link when addresses are announced."""
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
    """RFC 5227, 3: sender and target are the same."""

    def body() -> None:
        (frame,) = announced("10.9.0.2/24")
        assert frame[:12] == b"\xff" * 6 + packed(MAC)
        kind, *_, operation, mac, sender, _, target = struct.unpack("!HHHBBH6s4s6s4s", frame[12:42])
        assert (kind, operation, mac) == (0x0806, ARP_REQUEST, packed(MAC))
        assert sender == target == socket.inet_aton("10.9.0.2")

    apart(body)


def test_an_address_of_ipv6_is_announced_to_all_nodes() -> None:
    """RFC 4861, 7.2.6, with the link-layer address, and a checksum that a receiver accepts."""

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
        assert link._checksum(pseudo + body) == 0

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


# --- another namespace -----------------------------------------------------------------------------


def test_an_action_in_another_namespace() -> None:
    def body() -> None:
        mine = os.stat("/proc/self/ns/net").st_ino
        theirs = f"/proc/{os.getppid()}/ns/net"
        look = partial(os.stat, "/proc/thread-self/ns/net")
        assert in_netns(theirs, look).st_ino == os.stat(theirs).st_ino != mine
        assert os.stat("/proc/thread-self/ns/net").st_ino == mine, "this thread has stayed"

    apart(body)


def test_a_failure_in_another_namespace(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=f"in {tmp_path}/none: .*No such file"):
        in_netns(f"{tmp_path}/none", lambda: 1)
    (tmp_path / "plain").touch()
    with pytest.raises(NetworkError, match="Invalid argument"):
        in_netns(f"{tmp_path}/plain", lambda: 1)
    with pytest.raises(NetworkError, match="by zero"):
        in_netns("/proc/self/ns/net", lambda: 1 // 0)


# --- frames that come in the freeze ----------------------------------------------------------------


def sent(end: socket.socket, *to: str, size: int = 60) -> list[bytes]:
    """Send a frame to each of these addresses, and return the frames."""
    found = [
        (packed(mac) + packed(OTHER) + KIND).ljust(size, b"%d" % n) for n, mac in enumerate(to)
    ]
    for frame in found:
        end.send(frame)
    return found


def test_frames_for_the_container_are_kept_and_given_to_it() -> None:
    """`near` is the host's end; who is beyond it sends to the container by it."""

    def body() -> None:
        make_link()
        buffer = FrameBuffer(interface())
        with end("near") as host, end("far") as container:
            sent(host, MAC)  # nothing is kept yet
            buffer.keep()
            frames_sent = sent(host, MAC, OTHER, MAC)
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


def test_an_interface_that_is_not_there() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No such device"):
        FrameBuffer(interface())
    assert len(os.listdir("/proc/self/fd")) == before
