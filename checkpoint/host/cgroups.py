"""Where a container's processes stand in the cgroup hierarchies."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def in_one_cgroup(init: int, pids: list[int]) -> bool:
    """Whether one cgroup per hierarchy is all the container has: no sub-cgroups, no cgroup namespace."""
    if not os.path.samestat(os.stat(f"/proc/{init}/ns/cgroup"), os.stat("/proc/self/ns/cgroup")):
        return False
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found.add(Path(f"/proc/{pid}/cgroup").read_text())
    return len(found) == 1
