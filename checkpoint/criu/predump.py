"""Pre-dumps: CRIU sends the pages written since the last pre-dump, and the container runs on.

They need a kernel that tracks soft-dirty pages (Documentation/admin-guide/mm/soft-dirty.rst). Each
pre-dump is a session with a `criu swrk` of the tool's own. Its request is a copy of the runtime's
DUMP request, which is held meanwhile. Pages go to the page server; the only image file that a
pre-dump leaves is its inventory. Inventories chain each pre-dump, and the dump at the end, to the
pre-dump before (criu/mem.c, detect_pid_reuse).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from checkpoint.criu import log as criu_log
from checkpoint.criu import rpc
from checkpoint.criu.roles import widen
from checkpoint.errors import ConversationLost, CriuFailed
from checkpoint.host.ready import ready
from checkpoint.host.run import find_program, start

LOG = "predump.log"
MAX_MESSAGE = 1 << 20
#: The time that CRIU has to end after its page server has gone. CRIU notices that at once, and lets
#: the container go on before it ends.
END_TIMEOUT_S = 30.0


class PreDumps:
    """The chain of pre-dumps of one container.

    `options` are the criu_opts (rpc.proto) of the container's held DUMP request. `directory` must
    be the parent of the directory that the dump writes its image files to.
    """

    def __init__(self, options: rpc.Message, directory: Path) -> None:
        self._options, self._directory = options, directory
        self._made = 0

    @property
    def parent(self) -> str | None:
        """The parent_img of the next session: the directory of the last kept pre-dump, or None.

        The path is relative to the next session's own images directory.
        """
        return f"../predump-{self._made}" if self._made else None

    def begin(self) -> PreDump:
        """Start a CRIU for the next pre-dump, which waits for `ask`. Raises CommandFailed."""
        images = self._directory / f"predump-{self._made + 1}"
        images.mkdir(mode=0o700)
        return PreDump(self._options, images, self.parent)

    def keep(self) -> None:
        """Make the last pre-dump the parent of the next one, and remove its own parent.

        Call this only when `wait` of the last pre-dump has returned.
        """
        shutil.rmtree(self._directory / f"predump-{self._made}", ignore_errors=True)
        self._made += 1


class PreDump:
    """One pre-dump, by a `criu swrk` of its own.

    `pages` is the page server's end of its page-server socket, which the caller must serve until
    `wait` has returned.
    """

    def __init__(self, options: rpc.Message, images: Path, parent: str | None) -> None:
        self._images = images
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pages, their_pages = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        widen(their_pages)
        # CRIU looks the directory up among this process's descriptors (criu/cr-service.c).
        self._directory_fd = os.open(images, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with theirs, their_pages:
            self._pages_fd = their_pages.fileno()
            argv = [str(find_program("criu")), "swrk", str(theirs.fileno())]
            self._criu = start(argv, pass_fds=[theirs.fileno(), self._pages_fd])
        self._request = self._written(options, parent)

    def ask(self) -> None:
        """Send the request: the pre-dump begins."""
        self._socket.send(self._request)

    def wait(self, timeout_s: float, progress: Callable[[], int]) -> None:
        """Block until the pre-dump is done and the container runs on.

        `progress` counts what CRIU has sent so far, which takes as long as the link needs. Raises
        CriuFailed with the errors of CRIU's log, and ConversationLost if CRIU neither sends nor
        answers for `timeout_s`, or up to twice as long.
        """
        seen = -1
        while not ready(self._socket.fileno(), timeout_s=timeout_s):
            if (count := progress()) == seen:
                raise ConversationLost(f"CRIU's pre-dump did not go on for {timeout_s:g} s")
            seen = count
        try:
            answer = rpc.parse_response(self._socket.recv(MAX_MESSAGE))
        except (ConversationLost, ConnectionError):
            answer = None
        if answer is None or not answer.success:
            raise CriuFailed("pre-dump", criu_log.errors(self._images / LOG))

    def close(self) -> None:
        """End CRIU, whether or not the pre-dump is done.

        A CRIU still at work loses its page server: it fails, lets the container run on, and ends.
        CRIU that has not ended after END_TIMEOUT_S is killed.
        """
        with contextlib.suppress(OSError):
            self.pages.shutdown(socket.SHUT_RDWR)
        self.pages.close()
        self._socket.close()
        os.close(self._directory_fd)
        try:
            self._criu.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._criu.kill()
            self._criu.wait()

    def _written(self, options: rpc.Message, parent: str | None) -> bytes:
        request = rpc.request("PRE_DUMP")
        request.opts.CopyFrom(options)
        request.opts.track_mem = True
        request.opts.notify_scripts = False
        request.opts.log_file = LOG
        request.opts.ClearField("work_dir_fd")
        request.opts.ps.fd = self._pages_fd
        if parent is not None:
            request.opts.parent_img = parent
        request.opts.images_dir_fd = self._directory_fd
        return bytes(request.SerializeToString())
