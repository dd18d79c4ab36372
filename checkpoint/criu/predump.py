"""Pre-dumps: CRIU sends what was written since the last one, and the container runs on.

For kernels that track soft-dirty pages (Documentation/admin-guide/mm/soft-dirty.rst). Each is a session of our own
with `criu swrk`, in the runtime's own words: its DUMP request, which is held meanwhile. Only inventories are written
to disk; they chain each pre-dump, and the dump at the end, to the one before (criu/mem.c, detect_pid_reuse).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

from checkpoint.criu import log as criu_log
from checkpoint.criu import rpc
from checkpoint.criu.session import widen
from checkpoint.errors import ConversationLost, CriuFailed
from checkpoint.host.run import find_program, start

LOG = "predump.log"
MAX_MESSAGE = 1 << 20
#: CRIU notices at once that its page server is gone, and lets the container go on before it ends.
END_TIMEOUT_S = 30.0


class PreDumps:
    """The pre-dumps of one container, as its held DUMP request (rpc.proto, criu_opts) names it.

    `directory` must be the parent of the directory that the dump writes its images to.
    """

    def __init__(self, options: rpc.Message, directory: Path) -> None:
        self._options, self._directory = options, directory
        self._made = 0

    @property
    def parent(self) -> str | None:
        """What the next session names as its parent: the last one's directory, relative to its own."""
        return f"../predump-{self._made}" if self._made else None

    def begin(self) -> PreDump:
        """A CRIU that waits to be asked. Raises CommandFailed."""
        images = self._directory / f"predump-{self._made + 1}"
        images.mkdir(mode=0o700)
        return PreDump(self._options, images, self.parent)

    def keep(self) -> None:
        """The pre-dump that was begun last is complete; those before it are not needed any more."""
        shutil.rmtree(self._directory / f"predump-{self._made}", ignore_errors=True)
        self._made += 1


class PreDump:
    """One `criu swrk` on its way. `pages` is our end of its page-server socket, to be served until `wait`."""

    def __init__(self, options: rpc.Message, images: Path, parent: str | None) -> None:
        self._images = images
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pages, their_pages = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        widen(their_pages)
        # CRIU looks the directory up among our descriptors (criu/cr-service.c).
        self._directory_fd = os.open(images, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with theirs, their_pages:
            self._pages_fd = their_pages.fileno()
            argv = [str(find_program("criu")), "swrk", str(theirs.fileno())]
            self._criu = start(argv, pass_fds=[theirs.fileno(), self._pages_fd])
        self._request = self._written(options, parent)

    def ask(self) -> None:
        """Let it begin."""
        self._socket.send(self._request)

    def wait(self) -> None:
        """Until CRIU is done and the container runs on. Raises CriuFailed with its reasons."""
        try:
            answer = rpc.parse_response(self._socket.recv(MAX_MESSAGE))
        except (ConversationLost, ConnectionError):
            answer = None
        if answer is None or not answer.success:
            raise CriuFailed("pre-dump", criu_log.errors(self._images / LOG))

    def close(self) -> None:
        """However it went. Unserved, CRIU fails, lets go of the container, and ends."""
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
