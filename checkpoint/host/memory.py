"""How much RAM a container uses and a host has to give, in bytes."""

from __future__ import annotations

import contextlib
from pathlib import Path


def resident_bytes(pids: list[int]) -> int:
    """Proportional set size of these processes together (/proc/PID/smaps_rollup, proc(5))."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss")
    return total


def restored_bytes(pids: list[int]) -> int:
    """What these processes take after a restore: what forks share (`Anonymous` of smaps_rollup) is no longer shared."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup")
            total += _field(rollup, "Anonymous") + _field(rollup, "Pss_Shmem") + _field(rollup, "Swap")
    return max(total, resident_bytes(pids))


def available_bytes() -> int:
    """What can still be allocated: MemAvailable, or what the tightest memory cgroup leaves, if less."""
    bounds = [_field(Path("/proc/meminfo"), "MemAvailable"), *_cgroup_bounds()]
    return max(0, min(bounds))


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return 0


def _cgroup_bounds() -> list[int]:
    """Limit minus usage of our memory cgroup and its parents, v1 or v2 (cgroup-v1/memory, cgroup-v2)."""
    bounds = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            base, names = Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
        elif not controllers:
            base, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
        else:
            continue
        directory = base / path.lstrip("/")
        for level in (directory, *directory.parents):
            with contextlib.suppress(OSError, ValueError):  # "max", or a level without the controller
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
