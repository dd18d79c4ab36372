"""A process of this program's own that outlives this one: its handle, and the words to it.

Each word is a message on a socket pair (SEQPACKET, unix(7)), with descriptors where it hands
something over. The process sees the end of its socket when this one has ended, however that was.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Collection

from checkpoint.host.own_process import fork_detached
from checkpoint.host.ready import ready


class Detached:
    """The handle of a detached process, which the constructor forks (fork_detached).

    The process calls `run` with its end of the socket pair. It has the descriptors in `kept`
    besides. It must take a word within `patience_s` seconds, and end as soon when it is released. A
    process that takes longer (it was stopped, say) is killed: it may keep nobody waiting. One that
    was killed is missed by nobody.
    """

    def __init__(
        self,
        run: Callable[[socket.socket], object],
        patience_s: float,
        kept: Collection[int] = (),
    ) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._patience_s = patience_s
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(self._socket.close)
            self.pid = fork_detached([theirs.fileno(), *kept], lambda: run(theirs))
            undo.pop_all()
        self._socket.settimeout(patience_s)
        self._pidfd = os.pidfd_open(self.pid)

    def tell(self, message: bytes, *fds: int) -> None:
        """Say a word, and hand over copies of descriptors."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it was killed
            try:
                socket.send_fds(self._socket, [message], fds)
            except TimeoutError:
                self._kill()

    def release(self, last: bytes) -> None:
        """Say the last word, and wait for the end of the process."""
        self.tell(last)
        self._socket.close()
        if not ready(self._pidfd, timeout_s=self._patience_s):
            self._kill()
        self._reap()

    def result(self, last: bytes) -> bool:
        """Say the last word, and wait for the process, however long that takes.

        Returns whether it ended with status 0.
        """
        self.tell(last)
        self._socket.close()
        return self._reap() == 0

    def leave(self, last: bytes) -> None:
        """Say the last word, and have the process go on alone. It lives longer than this one."""
        self.tell(last)
        self._socket.close()
        os.close(self._pidfd)

    def _reap(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        os.close(self._pidfd)
        return os.waitstatus_to_exitcode(status)

    def _kill(self) -> None:
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
