"""How much RAM a container uses and a host has to give, in bytes."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from checkpoint.host import proc

#: Processes of a container that forks all the time come and go between two looks.
MOST_LOOKS = 5
#: madvise(2), Linux 5.14. MAP_POPULATE does nothing where pages are locked on fault (secrecy.py).
MADV_POPULATE_WRITE = 23


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """What processes have in RAM, and what they will have after a restore.

    `resident_bytes` is their proportional set size. `restored_bytes` may be more: memory that processes
    share since a fork is restored for each of them.
    """

    resident_bytes: int
    restored_bytes: int


def use_of(list_processes: Callable[[], list[int]]) -> MemoryUse:
    """Measure the processes that `list_processes` returns (/proc/PID/smaps_rollup, proc(5)).

    A process that was forked after they were listed takes its part of every page that it shares with them,
    and nobody counts that part. They are therefore listed again afterwards, and measured again if others
    are among them.
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
    """Of each process, read once: the kernel walks all its page tables for it."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            found.append(_fields(Path(f"/proc/{pid}/smaps_rollup")))
    return found


def bring_to_hand(size_bytes: int) -> None:
    """Have so much free memory that was in use just now.

    A virtual machine's host may take back what is free for a while (free page reporting), and gives it again at 5 to
    10 us a page. Who has no milliseconds to lose asks for it beforehand. Raises OSError.
    """
    with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(MADV_POPULATE_WRITE)


def available_bytes() -> int:
    """What can still be allocated: MemAvailable, or what the tightest memory cgroup leaves, if less."""
    bounds = [_fields(Path("/proc/meminfo")).get("MemAvailable", 0), *_cgroup_bounds()]
    return max(0, min(bounds))


def _fields(path: Path) -> dict[str, int]:
    """The `Name: N kB` lines of a file, in bytes."""
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {name: int(value.split()[0]) * 1024 for name, _, value in lines if value.endswith(" kB")}


def _cgroup_bounds() -> list[int]:
    """Limit minus usage of our memory cgroup and its parents, v1 or v2 (cgroup-v1/memory, cgroup-v2)."""
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
            with contextlib.suppress(
                OSError, ValueError
            ):  # "max", or a level without the controller
                limit, usage = (int((level / name).read_text()) for name in names)
                bounds.append(limit - usage + _reclaimable(level))
            if level == base:
                break
    return bounds


def _reclaimable(level: Path) -> int:
    """Page cache the cgroup gives back when asked (memory.stat), so not really in use."""
    for line in (level / "memory.stat").read_text().splitlines():
        name, value = line.split()
        if name in ("total_inactive_file", "inactive_file"):
            return int(value)
    return 0
