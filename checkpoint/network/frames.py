"""Frames for a frozen container, kept where they would reach it, and given to it after the resume.

Otherwise these frames are dropped, and their senders wait for a retransmission timer: at least 200
ms for TCP. Kernel: packet(7), Documentation/networking/filter.rst.
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
MAX_FRAME = 1 << 17  # bytes, because segmentation may be left to the device
#: So much is kept for one interface. Frames beyond that are dropped, and their senders try again.
MAX_BYTES = 1 << 20
MAX_FRAMES = 2048


class FrameBuffer:
    """The frames that leave the host's end of an interface for the container's MAC address.

    No frame is kept until `keep` is called. To be created before the freeze, because the kernel
    waits for an RCU grace period when a packet socket is bound; raises OSError. Each frame is
    preceded by its struct virtio_net_hdr, without which checksums and segmentation that were left
    to the device would be lost.
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

    @classmethod
    def handed_over(cls, fd: int) -> FrameBuffer:
        """Return the buffer of another process, to take what is in it; `fd` is of its socket."""
        found = cls.__new__(cls)
        found._mac, found._socket = b"", socket.socket(fileno=fd)
        return found

    def fileno(self) -> int:
        """Return the descriptor by which another process can take the frames."""
        return self._socket.fileno()

    def keep(self) -> None:
        """Begin to keep frames. Raises OSError."""
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
        """Stop keeping frames, and return those that were kept, oldest first.

        Each frame begins with its struct virtio_net_hdr. A frame that was cut short is left out.
        Raises OSError.
        """
        self._filter([(RETURN, 0, 0, 0)])
        # If the link was or went down, the kernel reports that once, before the frames.
        with contextlib.suppress(OSError):
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        frames: list[bytes] = []
        room = MAX_BYTES
        with contextlib.suppress(OSError):  # there are no more frames
            while room > 0 and len(frames) < MAX_FRAMES:
                frame, _, flags, _ = self._socket.recvmsg(MAX_FRAME)
                if not flags & socket.MSG_TRUNC:
                    frames.append(frame)
                    room -= len(frame)
        return frames

    def give(self, frames: Sequence[bytes | memoryview]) -> None:
        """Send frames to the container; leave out those that are not addressed to its MAC address.

        A frame that cannot be sent is dropped; its sender tries again.
        """
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
        # struct sock_fprog
        program = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(code))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def is_for(mac: bytes, frame: bytes | memoryview) -> bool:
    """Return whether a frame, behind its virtio_net_hdr, is a whole Ethernet frame to `mac`."""
    to = frame[VIRTIO_HEADER_BYTES : VIRTIO_HEADER_BYTES + len(mac)]
    return (
        VIRTIO_HEADER_BYTES + ETHERNET_HEADER_BYTES <= len(frame) <= MAX_FRAME and bytes(to) == mac
    )
