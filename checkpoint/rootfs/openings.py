"""See which files of a tmpfs may have been written through a mapping since they were copied.

Stores through a shared mapping need not leave a trace in the time stamps of a file on tmpfs (only a store that begins
with a fault does, mm/memory.c), and a mapping may be gone when the container is frozen. But a file that is mapped was
opened. Hence every file counts that some process had open or mapped when the copy was done (proc_pid_fd(5),
proc_pid_maps(5)), and every one that was opened, or closed by who may have written to it, since then (inotify(7)).
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable

from checkpoint.host import proc
from checkpoint.host.inotify import IN_CLOSE_WRITE, IN_OPEN, Watches
from checkpoint.rootfs.beneath import TreeRoot
from checkpoint.rootfs.changes import INODE, MODE, Snapshot


class Openings:
    """Sees who opens a file of a tree, from when it is made. Close it.

    It is made before a snapshot is taken of the tree, and `copied` is called when what the snapshot has was copied.
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
                    self._watches.add(f"/proc/self/fd/{fd}", IN_OPEN | IN_CLOSE_WRITE)
                ] = path
            except OSError:  # there may be no more watches (fs.inotify.max_user_watches)
                self._all = True

    def copied(self, pids: Iterable[int]) -> None:
        """The copy was made, which opened files, too. `pids` are the container's processes, which run on."""
        self._written = self._named(IN_CLOSE_WRITE)
        self._held = set().union(*(_held(pid, self._device) for pid in pids))

    def since(self, copy: Snapshot) -> list[str]:
        """Return those files of the snapshot that may be others by now, in the freeze."""
        paths = self._written | self._named(IN_CLOSE_WRITE | IN_OPEN)
        inodes = self._held | {copy.files[path][INODE] for path in paths & copy.files.keys()}
        regular = ((path, found) for path, found in copy.files.items() if stat.S_ISREG(found[MODE]))
        return [path for path, found in regular if self._all or found[INODE] in inodes]

    def close(self) -> None:
        """Look no more."""
        self._watches.close()

    def _named(self, wanted: int) -> set[str]:
        """The paths of events of these kinds; all others are forgotten."""
        found = set()
        for watch, mask, name in self._watches.events():
            if watch not in self._directories:  # the kernel's queue was full
                self._all = True
            elif mask & wanted:
                directory = self._directories[watch]
                found.add(f"{directory}/{name}" if directory else name)
        return found


def _held(pid: int, device: int) -> set[int]:
    """The inodes of a file system that a process has open or mapped."""
    found = set()
    with contextlib.suppress(OSError):  # it has ended
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if (file := os.stat(f"/proc/{pid}/fd/{name}")).st_dev == device:
                    found.add(file.st_ino)
        text = proc.device_text(device)
        found |= {mapping.inode for mapping in proc.mappings(pid) if mapping.device == text}
    return found
