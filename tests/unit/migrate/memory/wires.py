"""Page channels over socket pairs, which can be cut."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from migrate.agent.plug_command import PAGES, PLUGGED
from transport.errors import IncompleteFrame


class Wire:
    """A channel, whose other end is `theirs`, or goes to the receiver that listens at `path`."""

    def __init__(self, path: Path | None = None) -> None:
        self._ours, self.theirs = socket.socketpair()
        if path is not None:
            with self.theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as plug:
                plug.connect(str(path))
                socket.send_fds(plug, [PAGES.encode()], [self.theirs.fileno()] * 2)
                assert self._ours.recv(len(PLUGGED)) == PLUGGED

    def read_into(self, view: memoryview) -> int:
        return self._ours.recv_into(view)

    def write(self, data: bytes | memoryview) -> None:
        try:
            self._ours.sendall(data)
        except OSError as error:
            raise IncompleteFrame(str(error)) from error

    def cut(self) -> None:
        """Lose the channel, with a write that is under way."""
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        self._ours.close()
        self.theirs.close()
