"""Reads a frozen container's memory by address space: the source's side of the proof of memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping

from checkpoint.criu.page_server import PS_TYPE_PID
from checkpoint.errors import IncompleteIO
from checkpoint.host import memory, proc, whole
from checkpoint.memory.tracking.tracker import virtual_pid


def by_virtual_pid(pids: Iterable[int]) -> dict[int, int]:
    """Return {pid in its own pid namespace: pid on this host} of processes that have not ended."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            found[virtual_pid(pid)] = pid
    return found


class FrozenMemory:
    """The memory of the container's processes, and the memory that they share. Use as a context.

    `pids` maps a process's pid in its own pid namespace, by which CRIU knows it, to its pid on this
    host. The container must stay frozen meanwhile.
    """

    def __init__(self, pids: Mapping[int, int]) -> None:
        self._pids = pids
        self._open: dict[int, int | None] = {}

    def __enter__(self) -> FrozenMemory:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._open.values():
            if fd is not None:
                os.close(fd)
        self._open.clear()

    def read(self, dst_id: int, address: int, view: memoryview) -> bool:
        """Fill `view` with an address space's pages at an address; return whether that worked.

        In shared memory the address is an offset. Pages that cannot be read from outside are device
        memory, and shared memory that no process maps or has open.
        """
        if dst_id not in self._open:
            self._open[dst_id] = self._find(dst_id)
        fd = self._open[dst_id]
        if fd is None:
            return False
        try:
            whole.pread(fd, view, address)
        except (OSError, IncompleteIO):
            return False
        return True

    def _find(self, dst_id: int) -> int | None:
        number = dst_id >> 8
        with contextlib.suppress(OSError):
            if dst_id & 0xFF == PS_TYPE_PID:
                pid = self._pids.get(number)
                if pid is None:
                    return None
                return os.open(proc.path(pid, "mem"), os.O_RDONLY | os.O_CLOEXEC)
            for path in self._shared_memory(number):
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return None

    def _shared_memory(self, inode: int) -> Iterator[str]:
        """Yield paths in /proc at which the shared memory of an inode number can be opened.

        CRIU names the image of shared memory by that number (criu/proc_parse.c, handle_vma;
        criu/memfd.c). The inode is in the kernel's own tmpfs. For System V shared memory the kernel
        shows the segment's id in its place (proc_pid_maps(5)).
        """
        device = proc.device_text(memory.shared_memory_device())
        for pid in self._pids.values():
            for mapping in proc.mappings(pid):
                if mapping.inode == inode and mapping.device == device:
                    yield proc.path(pid, "map_files", f"{mapping.start:x}-{mapping.end:x}")
        for pid in self._pids.values():
            for fd in proc.descriptors(pid):
                path = proc.path(pid, "fd", fd)
                with contextlib.suppress(OSError):
                    if (
                        found := os.stat(path)
                    ).st_ino == inode and found.st_dev == memory.shared_memory_device():
                        yield path
