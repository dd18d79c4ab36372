"""Copies of a tree to another directory of this host, by the real rsync in enclosures."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from checkpoint.files.beneath import TreeRoot
from checkpoint.files.enclosure import start_enclosed
from checkpoint.files.rsync import Ending, Rsync, served
from checkpoint.host import whole

PIECE_BYTES = 1 << 16
#: An ACL as the kernel takes it (include/uapi/linux/posix_acl_xattr.h): user 7 may read and enter.
ACL = struct.pack(
    "<I" + "HHI" * 5,
    *(2, 0x01, 7, 0xFFFFFFFF, 0x02, 5, 7, 0x04, 5, 0xFFFFFFFF),
    *(0x10, 5, 0xFFFFFFFF, 0x20, 0, 0xFFFFFFFF),
)


class Joined:
    """An rsync from one directory to another, whose two ends are joined by pipes."""

    def __init__(self, source: Path, target: Path) -> None:
        self._roots = [TreeRoot(source), TreeRoot(target)]
        self.rsync = Rsync(self._roots[0].fd, self.carry)
        self.began, self.ended = threading.Event(), threading.Event()

    def close(self) -> None:
        if self.began.is_set():
            assert self.ended.wait(30), "the target's end of a pass goes on"
        for root in self._roots:
            root.close()

    def carry(
        self, words: Sequence[str], from_rsync: int, to_rsync: int, answered: Callable[[], None]
    ) -> Ending:
        """Carry the bytes of a pass between both ends, as a Carry of rsync.py does."""
        self.began.set()
        try:
            return self._served(words, from_rsync, to_rsync, answered)
        finally:
            self.ended.set()

    def _served(
        self, words: Sequence[str], from_rsync: int, to_rsync: int, answered: Callable[[], None]
    ) -> Ending:
        pipe = subprocess.PIPE
        server_reads, to_server = os.pipe()
        server = start_enclosed(
            served(words), self._roots[1].fd, stdin=server_reads, stdout=pipe, stderr=pipe
        )
        os.close(server_reads)
        assert server.stdout is not None
        upstream = threading.Thread(target=self._upstream, args=(from_rsync, to_server))
        upstream.start()
        with contextlib.suppress(BrokenPipeError):
            while data := os.read(server.stdout.fileno(), PIECE_BYTES):
                whole.write(to_rsync, data)
                answered()
        os.close(to_rsync)
        upstream.join()
        os.close(from_rsync)
        with server:
            assert server.stderr is not None
            told = server.stderr.read().decode()
        return Ending(status=server.returncode, complaint=told)

    def _upstream(self, from_rsync: int, to_server: int) -> None:
        with contextlib.suppress(BrokenPipeError):
            while data := os.read(from_rsync, PIECE_BYTES):
                whole.write(to_server, data)
        os.close(to_server)


def change_root(root: Path) -> None:
    """Change all that rsync carries of a tree's root itself."""
    os.chown(root, 11, 12)
    root.chmod(0o2750)
    os.setxattr(root, "user.who", b"me")
    os.setxattr(root, "system.posix_acl_access", ACL)
    os.utime(root, (3, 4))


def root_state(root: Path) -> tuple[object, ...]:
    """Return all that rsync carries of a directory itself."""
    found = root.stat()
    attributes = {name: os.getxattr(root, name) for name in os.listxattr(root)}
    return found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, attributes
