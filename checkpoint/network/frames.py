"""Frames for a container that stands still, taken where they would reach it, to be given to it when it runs again.

They are dropped otherwise, and their senders wait for a retransmission timer: 200 ms at the least for TCP.
Kernel: packet(7), Documentation/networking/filter.rst.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Sequence

from checkpoint.network.link import ETH_P_ALL
from checkpoint.network.model import Interface

#: include/uapi/asm-generic/socket.h, include/uapi/linux/if_packet.h
SO_ATTACH_FILTER, SO_RCVBUFFORCE, SOL_PACKET, PACKET_VNET_HDR = 26, 33, 263, 15
#: linux/bpf_common.h: A = 4 or 2 bytes at K; jump if A == K; return K
LOAD_WORD, LOAD_HALF, JUMP_EQUAL, RETURN = 0x20, 0x28, 0x15, 0x06
INSTRUCTION = struct.Struct("=HBBI")
#: include/uapi/linux/virtio_net.h, include/uapi/linux/if_ether.h
VIRTIO_HEADER_BYTES, ETHERNET_HEADER_BYTES = 10, 14
MAX_FRAME = 1 << 17  # with segmentation left to the device
#: As much as is kept of one interface; for more, senders have to try again.
MAX_BYTES = 1 << 20
MAX_FRAMES = 2048


class HeldFrames:
    """Those that go out of the host's end of an interface to the container. Drops all until `keep` is called.

    Made while there is time: the kernel waits for RCU when such a socket is bound. Each frame is preceded by its struct
    virtio_net_hdr, without which checksums and segments that were left to the device would be lost.
    """

    def __init__(self, interface: Interface) -> None:
        self._mac = bytes.fromhex(interface.mac.replace(":", ""))
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._filter([(RETURN, 0, 0, 0)])
            self._socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 * MAX_BYTES)
            self._socket.setblocking(False)
            self._socket.bind((interface.host_name, ETH_P_ALL))
        except OSError:
            self._socket.close()
            raise

    def keep(self) -> None:
        """From now on."""
        high, low = struct.unpack("!IH", self._mac)
        self._filter(
            [
                (LOAD_WORD, 0, 0, 0),
                (JUMP_EQUAL, 0, 3, high),
                (LOAD_HALF, 0, 0, 4),
                (JUMP_EQUAL, 0, 1, low),
                (RETURN, 0, 0, MAX_FRAME),
                (RETURN, 0, 0, 0),
            ]
        )

    def take(self) -> list[bytes]:
        """What was kept; nothing is any more."""
        self._filter([(RETURN, 0, 0, 0)])
        with contextlib.suppress(
            OSError
        ):  # that the link was, or went, down is told once, before the frames
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        frames: list[bytes] = []
        room = MAX_BYTES
        with contextlib.suppress(OSError):  # there are no more
            while room > 0 and len(frames) < MAX_FRAMES:
                frame, _, flags, _ = self._socket.recvmsg(MAX_FRAME)
                if not flags & socket.MSG_TRUNC:
                    frames.append(frame)
                    room -= len(frame)
        return frames

    def give(self, frames: Sequence[bytes | memoryview]) -> None:
        """To the container, and to nobody else. What it does not take is tried again by its sender."""
        for frame in frames:
            if is_for(self._mac, frame):
                with contextlib.suppress(OSError):
                    self._socket.send(frame)

    def close(self) -> None:
        self._socket.close()

    def _filter(self, instructions: list[tuple[int, int, int, int]]) -> None:
        code = ctypes.create_string_buffer(
            b"".join(INSTRUCTION.pack(*each) for each in instructions)
        )
        program = struct.pack(
            "HxxxxxxP", len(instructions), ctypes.addressof(code)
        )  # struct sock_fprog
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def is_for(mac: bytes, frame: bytes | memoryview) -> bool:
    """Whether a frame, behind its virtio_net_hdr, is a whole one to that address."""
    to = frame[VIRTIO_HEADER_BYTES : VIRTIO_HEADER_BYTES + len(mac)]
    return (
        VIRTIO_HEADER_BYTES + ETHERNET_HEADER_BYTES <= len(frame) <= MAX_FRAME and bytes(to) == mac
    )
