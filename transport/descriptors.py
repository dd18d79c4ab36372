"""A ByteStream over two file descriptors: pipes, as sshd gives them to a command, or a socket."""

from __future__ import annotations

import contextlib
import fcntl
import os

PIPE_BYTES = 1 << 20


def widen_pipe(fd: int) -> None:
    """Let a pipe hold up to PIPE_BYTES instead of 64 KiB (pipe(7)).

    Does nothing if the kernel does not allow that, or `fd` is no pipe.
    """
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class Descriptors:
    """A ByteStream that owns the two descriptors, which may be the same."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader, self._writer = reader, writer

    def read_into(self, view: memoryview) -> int:
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
        for fd in {self.reader, self._writer}:
            os.close(fd)
