"""Restore without reading memory: `criu lazy-pages`, served from the page store on this host.

The restored tasks run as soon as CRIU is done with everything else; the daemon brings the pages they
touch at once and all others in the background. It speaks the page-server protocol of
criu/page-xfer.c on a socketpair, so that no memory is ever offered on a port.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

from checkpoint.criu import log as criu_log
from checkpoint.criu.page_wire import ADD_F, CLOSE, FORCE_CLOSE, GET, PE_PRESENT, process_id
from checkpoint.errors import CriuFailed, ImageError
from checkpoint.host.run import find_program, start
from checkpoint.memory.store import PageStore

LOG = "lazy-pages.log"
#: Should memory become short, this daemon must be the last to go: the container lives on its pages.
OOM_SCORE_ADJ = "-1000"


class Fill:
    """A running `criu lazy-pages` and the thread that feeds it."""

    def __init__(self, images: Path, store: PageStore, layout: struct.Struct) -> None:
        self._images, self._store, self._layout = images, store, layout
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.pages = 0
        self.finished_ns = 0
        self._failure: Exception | None = None
        ready, status = os.pipe()
        with theirs:
            self._daemon = self._start(theirs.fileno(), status)
        os.close(status)
        self._thread = threading.Thread(target=self._serve, name="page store", daemon=True)
        self._thread.start()
        self._wait_ready(ready)

    def wait(self, timeout_s: float) -> None:
        """Until all memory is in place. Raises CriuFailed or ImageError when it never will be."""
        try:
            status = self._daemon.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise CriuFailed("lazy-pages", [f"memory was not in place after {timeout_s:g} s"]) from error
        self._thread.join(timeout_s)
        if self._failure is not None:
            raise self._failure
        if status != 0:
            raise CriuFailed("lazy-pages", criu_log.errors(self._images / LOG) or [f"it ended with status {status}"])

    def kill(self) -> None:
        """Only before the container runs, or after `wait`: without its pages it cannot live."""
        self._daemon.kill()
        self._daemon.wait()

    def _start(self, socket_fd: int, status_fd: int) -> subprocess.Popen[bytes]:
        argv = [str(find_program("criu")), "lazy-pages", "-D", str(self._images), "-W", str(self._images)]
        argv += ["-o", LOG, "-v1", "--page-server", "--ps-socket", str(socket_fd), "--status-fd", str(status_fd)]
        daemon = start(argv, pass_fds=[socket_fd, status_fd])
        with contextlib.suppress(OSError):
            Path(f"/proc/{daemon.pid}/oom_score_adj").write_text(OOM_SCORE_ADJ)
        return daemon

    def _wait_ready(self, ready: int) -> None:
        """The daemon writes one byte once its socket for the restore exists; it dies with the pipe empty."""
        try:
            if not os.read(ready, 1):
                self._daemon.wait()
                raise CriuFailed("lazy-pages", criu_log.errors(self._images / LOG))
        finally:
            os.close(ready)

    def _serve(self) -> None:
        try:
            with self._ours:
                while self._answer_one():
                    pass
        except (OSError, ImageError) as error:
            self._failure = error
        self.finished_ns = time.monotonic_ns()

    def _answer_one(self) -> bool:
        header = self._ours.recv(self._layout.size, socket.MSG_WAITALL)
        if len(header) < self._layout.size:
            return False
        word, pages, vaddr, image = self._layout.unpack(header)
        if word & 0xFFFF == GET:
            self._ours.sendall(self._layout.pack(ADD_F | PE_PRESENT << 16, pages, vaddr, image))
            for piece in self._store.get(process_id(image), vaddr, pages):
                self._ours.sendall(piece)
            self.pages += pages
            return True
        if word in (CLOSE, FORCE_CLOSE):
            self._ours.sendall(struct.pack("=i", 0))
            return False
        raise ImageError(f"lazy-pages sent an unknown command {word:#x}")
