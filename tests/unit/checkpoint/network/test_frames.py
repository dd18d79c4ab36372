"""Tests of checkpoint/network/frames.py: frames are kept for a container, and given to it."""

from __future__ import annotations

import contextlib
import socket
import time

from checkpoint.network.frames import FrameBuffer, is_for
from checkpoint.network.model import Interface
from tests.unit.checkpoint.network.links import on_a_link

ETH_P_ARP, ETH_P_ALL = 0x0806, 0x0003
STATION = bytes.fromhex("0200000000aa")


def test_only_frames_to_the_containers_address_are_for_it() -> None:
    mac, header = bytes.fromhex("0200000000bb"), bytes(10)
    assert is_for(mac, header + mac + bytes(8))
    assert is_for(mac, memoryview(header + mac + bytes(8)))
    assert not is_for(mac, header + mac + bytes(7))
    assert not is_for(mac, header + b"\xff" * 6 + bytes(100))
    assert not is_for(mac, b"")
    assert not is_for(mac, header + mac + bytes(1 << 17))


def test_frames_for_others_are_not_given_to_the_link() -> None:
    mac = "02:00:00:00:00:bb"
    destinations = [b"\xff" * 6, bytes.fromhex(mac.replace(":", "")), bytes.fromhex("0200000000cc")]

    def body() -> list[bytes]:
        held = FrameBuffer(
            Interface(name="far", mac=mac, mtu=1500, addresses=(), host_name="near", bridge=None)
        )
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as far:
            far.bind(("far", ETH_P_ALL))
            held.give([bytes(10) + to + STATION + b"\x88\xb5" + bytes(46) for to in destinations])
            held.close()
            time.sleep(0.1)
            far.setblocking(False)
            found = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    found.append(far.recv(2048))
        return [frame for frame in found if frame[6:12] == STATION]

    (frame,) = on_a_link(body)
    assert frame[:6].hex(":") == mac
