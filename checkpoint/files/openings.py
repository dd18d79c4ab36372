"""Detection of files on a tmpfs that may have been written through a mapping since their copy.

Stores through a shared mapping need not leave a trace in the time stamps of a file on tmpfs: only a
store that begins with a page fault does (mm/memory.c). The mapping may also be gone when the
container is frozen. But a file that is mapped was opened before. Therefore these files count as
written:

- every file that a process had open or mapped when the copy was complete (proc_pid_fd(5),
  proc_pid_maps(5)),
- every file that was opened since then (inotify(7)),
- every file that was closed since the copy began by a process that could write to it (inotify(7)).
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable

from checkpoint.files.beneath import TreeRoot
from checkpoint.files.changes import INODE, MODE, Snapshot
from checkpoint.host import proc
from checkpoint.host.inotify import IN_CLOSE_WRITE, IN_OPEN, Watches


class Openings:
    """A watch over a tmpfs: which of its files have been opened or closed since the watch began.

    To be created before the snapshot of the tree that is copied. `copied` is to be called when the
    files of the snapshot have been copied, `since` after that, `close` at the end. If the kernel
    cannot watch a directory or loses events, all files count as written.
    """

    def __init__(self, root: TreeRoot) -> None:
        self._device = os.fstat(root.fd).st_dev
        self._directories: dict[int, str] = {}
        self._held: set[int] = set()
        self._written: set[str] = set()
        self._watches = Watches()
        self._all = False
        for path, fd, _ in root.walk():
            try:
                self._directories[
                    self._watches.add(proc.path("self", "fd", fd), IN_OPEN | IN_CLOSE_WRITE)
                ] = path
            except OSError:  # there may be no more watches (fs.inotify.max_user_watches)
                self._all = True

    def copied(self, pids: Iterable[int]) -> None:
        """Note that the copy is complete; ignore that files were opened until now.

        The copy itself has opened files. `pids` are the container's processes, which run on.
        """
        self._written = self._named(IN_CLOSE_WRITE)
        self._held = set().union(*(_held(pid, self._device) for pid in pids))

    def since(self, copy: Snapshot) -> list[str]:
        """Return the regular files of the snapshot `copy` that may have been written since.

        To be called while the container is frozen. Every name of a file with several names counts.
        """
        paths = self._written | self._named(IN_CLOSE_WRITE | IN_OPEN)
        inodes = self._held | {copy.files[path][INODE] for path in paths & copy.files.keys()}
        regular = ((path, found) for path, found in copy.files.items() if stat.S_ISREG(found[MODE]))
        return [path for path, found in regular if self._all or found[INODE] in inodes]

    def close(self) -> None:
        """Stop watching."""
        self._watches.close()

    def _named(self, wanted: int) -> set[str]:
        """Return the paths of queued events of the kinds `wanted` (IN_*), and empty the queue."""
        found = set()
        for watch, mask, name in self._watches.events():
            if watch not in self._directories:  # -1: the kernel's queue was full
                self._all = True
            elif mask & wanted:
                directory = self._directories[watch]
                found.add(f"{directory}/{name}" if directory else name)
        return found


def _held(pid: int, device: int) -> set[int]:
    """Return the inode numbers of the files on `device` that a process has open or mapped.

    `device` is an st_dev. A process that has ended has none.
    """
    found = set()
    with contextlib.suppress(OSError):  # the process has ended
        for fd in proc.descriptors(pid):
            with contextlib.suppress(OSError):
                if (file := os.stat(proc.path(pid, "fd", fd))).st_dev == device:
                    found.add(file.st_ino)
        text = proc.device_text(device)
        found |= {mapping.inode for mapping in proc.mappings(pid) if mapping.device == text}
    return found
