"""Frames: a bounded header, large enough for JSON, and a bounded payload, over any byte stream.

A frame is {u32 header length, u32 payload length} in network order, then the header and the
payload. This module does not look at what is in either. The stream must keep bytes in order.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import threading
from collections.abc import Sequence
from typing import Protocol

from transport.errors import EndOfStream, FrameInvalid, IncompleteFrame

PREFIX = struct.Struct("!II")
MAX_HEADER = 1 << 20
MAX_PAYLOAD = 16 << 20
PIPE_BYTES = 1 << 20


class ByteStream(Protocol):
    """A connection with a stream of bytes in each direction."""

    def read_into(self, view: memoryview) -> int:
        """Fill the start of `view` with bytes that have come, and return how many; 0 at the end."""

    def write(self, data: bytes | memoryview) -> None:
        """Write all of `data`, in order."""

    def close(self) -> None:
        """End both directions."""


def widen_pipe(fd: int) -> None:
    """Let a pipe hold up to PIPE_BYTES instead of 64 KiB (pipe(7)).

    Does nothing if the kernel does not allow that, or `fd` is no pipe.
    """
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class Descriptors:
    """A ByteStream over two descriptors, which it owns: pipes of sshd to a command, or a socket.

    Both may be the same descriptor. A read that waits longer than `silence_s` seconds raises
    IncompleteFrame; None is no bound.
    """

    def __init__(self, reader: int, writer: int, silence_s: float | None = None) -> None:
        self.reader, self._writer = reader, writer
        self._silence_ms = None if silence_s is None else silence_s * 1000
        self._closed = False
        self._readable = select.poll()
        self._readable.register(reader, select.POLLIN)

    def read_into(self, view: memoryview) -> int:
        if self._silence_ms is not None and not self._readable.poll(self._silence_ms):
            raise IncompleteFrame(f"nothing came from the peer for {self._silence_ms / 1000:g} s")
        return os.readv(self.reader, [view])  # short result: callers expect it (ByteStream)

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._writer, view) :]  # short result: the loop writes the rest

    def hang_up(self) -> None:
        """End the stream for the peer.

        Both descriptors stay open, but lead to /dev/null: reads find the end of the stream, and
        bytes written are lost.
        """
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in {self.reader, self._writer}:
            os.dup2(null, fd, inheritable=False)
        os.close(null)

    def close(self) -> None:
        """Close both descriptors, once: later others may have their numbers."""
        if not self._closed:
            self._closed = True
            for fd in {self.reader, self._writer}:
                os.close(fd)


class FrameStream:
    """A stream of frames over a ByteStream. Several threads may send; only one may receive.

    A `send` or `receive` that is interrupted within a frame makes its direction useless: each later
    one in that direction raises IncompleteFrame. `sent_bytes` counts the bytes of sent frames.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._sending = threading.Lock()
        self._inside_sent = self._inside_read = False
        self.sent_bytes = 0

    def send(self, header: bytes, parts: Sequence[bytes | memoryview] = ()) -> None:
        """Send one frame whose payload is `parts` joined.

        Raises FrameInvalid when the frame is too large; nothing was sent then.
        """
        size = sum(map(len, parts))
        if len(header) > MAX_HEADER or size > MAX_PAYLOAD:
            raise FrameInvalid(f"frame of {len(header)} + {size} bytes is over the bound")
        with self._sending:
            if self._inside_sent:
                raise IncompleteFrame("an earlier frame was not sent to its end")
            self._inside_sent = True
            self._stream.write(PREFIX.pack(len(header), size) + header)
            for part in parts:
                self._stream.write(part)
            self._inside_sent = False
            self.sent_bytes += PREFIX.size + len(header) + size

    def receive(self) -> tuple[bytearray, bytearray]:
        """Return the header and the payload of the next frame.

        Raises EndOfStream when the peer closed the stream between two frames, IncompleteFrame when
        the stream ended within one, and FrameInvalid when a frame is over the bounds.
        """
        if self._inside_read:
            raise IncompleteFrame("an earlier frame was not read to its end")
        prefix = self._read(PREFIX.size, boundary=True)
        header_size, payload_size = PREFIX.unpack(prefix)
        if header_size > MAX_HEADER or payload_size > MAX_PAYLOAD:
            raise FrameInvalid(f"peer announces a frame of {header_size} + {payload_size} bytes")
        header, payload = self._read(header_size), self._read(payload_size)
        self._inside_read = False
        return header, payload

    def close(self) -> None:
        self._stream.close()

    def _read(self, size: int, *, boundary: bool = False) -> bytearray:
        data = bytearray(size)
        left = memoryview(data)
        while left:
            got = self._stream.read_into(left)
            if not got:
                if boundary and len(left) == size:
                    raise EndOfStream("the peer closed the stream")
                raise IncompleteFrame(
                    f"the stream ended {len(left)} bytes before the end of a frame"
                )
            self._inside_read = True
            left = left[got:]
        return data
