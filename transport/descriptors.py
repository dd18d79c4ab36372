"""A ByteStream over two file descriptors: pipes, as sshd gives them to a command, or a socket."""

from __future__ import annotations

import contextlib
import fcntl
import os

PIPE_BYTES = 1 << 20


def widen_pipe(fd: int) -> None:
    """Let more than 64 KiB wait in a pipe (pipe(7)). Not everybody may, and what is no pipe has no such size."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class Descriptors:
    """Owns both; they may be the same."""

    def __init__(self, reader: int, writer: int) -> None:
        self.reader, self._writer = reader, writer

    def read_into(self, view: memoryview) -> int:
        return os.readv(self.reader, [view])  # short result: the caller goes on (ByteStream)

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._writer, view) :]  # short result: goes on behind it

    def hang_up(self) -> None:
        """End the stream for the other side. Both descriptors stay, and lead nowhere: what is written is lost."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in {self.reader, self._writer}:
            os.dup2(null, fd, inheritable=False)
        os.close(null)

    def close(self) -> None:
        for fd in {self.reader, self._writer}:
            os.close(fd)
