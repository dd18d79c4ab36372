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
        self._reader, self._writer = reader, writer

    def read_into(self, view: memoryview) -> int:
        return os.readv(self._reader, [view])  # short result: the caller goes on (ByteStream)

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._writer, view) :]  # short result: goes on behind it

    def close(self) -> None:
        for fd in {self._reader, self._writer}:
            os.close(fd)
