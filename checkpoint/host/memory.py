"""The RAM that a container uses and the RAM that a host has available, in bytes."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from checkpoint.host import proc

#: How often to measure: a container that forks all the time has new processes at every look.
MOST_LOOKS = 5
#: madvise(2), Linux 5.14. MAP_POPULATE would do nothing in a process whose pages are locked on
#: fault (own_process.py).
MADV_POPULATE_WRITE = 23


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """The RAM that processes use, and the RAM that they will use after a restore.

    `resident_bytes` is the sum of their proportional set sizes. `restored_bytes` may be more:
    memory that processes share since a fork is restored for each of them.
    """

    resident_bytes: int
    restored_bytes: int


def use_of(list_processes: Callable[[], list[int]]) -> MemoryUse:
    """Measure the processes that `list_processes` returns (/proc/PID/smaps_rollup, proc(5)).

    A process that was forked after the listing shares pages with the listed ones. Its share of
    these pages is missing from their proportional set sizes, and is not counted for anybody. The
    processes are therefore listed again after the measurement, and measured again, up to MOST_LOOKS
    times, if there are new ones. A process that has ended is ignored.
    """
    pids = list_processes()
    for _ in range(MOST_LOOKS):
        rollups, before = _rollups(pids), set(pids)
        pids = list_processes()
        if set(pids) <= before:
            break
    resident = sum(fields.get("Pss", 0) for fields in rollups)
    restored = sum(
        fields.get(name, 0) for fields in rollups for name in ("Anonymous", "Pss_Shmem", "Swap")
    )
    return MemoryUse(resident_bytes=resident, restored_bytes=max(restored, resident))


def _rollups(pids: list[int]) -> list[dict[str, int]]:
    """Return the fields of each process's smaps_rollup, in bytes.

    Each file is read only once, because for that the kernel walks all page tables of the process.
    """
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            found.append(_fields(Path(proc.path(pid, "smaps_rollup"))))
    return found


def bring_to_hand(size_bytes: int) -> None:
    """Use and free `size_bytes` of memory, so that as much can be allocated fast right afterwards.

    The host of a virtual machine may take back memory that has been free for a while (free page
    reporting). To get it again costs 5 to 10 us a page. Code that has no milliseconds to lose calls
    this function beforehand. Raises OSError.
    """
    with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(MADV_POPULATE_WRITE)


@functools.cache
def shared_memory_device() -> int:
    """Return the device number (st_dev) of the kernel's own tmpfs, found by a memfd in it.

    All shared memory that no mount has is there: anonymous, memfds, and System V's.
    """
    fd = os.memfd_create("device", os.MFD_CLOEXEC)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def available_bytes() -> int:
    """Return how many bytes this process can still allocate.

    The result is MemAvailable of the host, or what the tightest of the process's memory cgroups
    leaves if that is less.
    """
    bounds = [_fields(Path(proc.path("meminfo"))).get("MemAvailable", 0), *_cgroup_bounds()]
    return max(0, min(bounds))


def _fields(path: Path) -> dict[str, int]:
    """Return the lines "Name: N kB" of a file as {name: bytes}."""
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {name: int(value.split()[0]) * 1024 for name, _, value in lines if value.endswith(" kB")}


def _cgroup_bounds() -> list[int]:
    """Return what the memory cgroup of this process, and each of its parents, leaves to allocate.

    That is limit minus usage plus what can be reclaimed, for cgroups of v1 and v2. Kernel:
    Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst.
    """
    bounds = []
    for controllers, path in proc.cgroups("self"):
        if "memory" in controllers.split(","):
            base, names = (
                Path("/sys/fs/cgroup/memory"),
                ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            )
        elif not controllers:
            base, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
        else:
            continue
        directory = base / path.lstrip("/")
        for level in (directory, *directory.parents):
            # ValueError: the limit is "max". OSError: a level without the controller.
            with contextlib.suppress(OSError, ValueError):
                limit, usage = (int((level / name).read_text()) for name in names)
                bounds.append(limit - usage + reclaimable_bytes(level))
            if level == base:
                break
    return bounds


def reclaimable_bytes(level: Path) -> int:
    """Return the bytes of page cache in a cgroup's memory.stat that the kernel frees on demand.

    They count as usage, but can be allocated. In cgroup v1 `inactive_file` is of the cgroup alone,
    and `total_inactive_file` of its children, too; in v2 there is only the former, with the
    children.
    """
    lines = (line.split() for line in (level / "memory.stat").read_text().splitlines())
    found = {name: int(value) for name, value in lines}
    return found.get("total_inactive_file", found.get("inactive_file", 0))
