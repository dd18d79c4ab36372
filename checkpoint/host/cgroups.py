"""Where a container's processes stand in the cgroup hierarchies, and what limits they have there.

Kernel: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpoint.host import proc
from checkpoint.host.identity import PathIdentity

#: Files of cgroup v1 that `update` commands write: controller, file, where it is in OCI `linux.resources`.
V1_LIMITS = (
    ("memory", "memory.limit_in_bytes", ("memory", "limit")),
    ("memory", "memory.soft_limit_in_bytes", ("memory", "reservation")),
    ("memory", "memory.memsw.limit_in_bytes", ("memory", "swap")),
    ("cpu", "cpu.shares", ("cpu", "shares")),
    ("cpu", "cpu.cfs_period_us", ("cpu", "period")),
    ("cpu", "cpu.cfs_quota_us", ("cpu", "quota")),
    ("cpuset", "cpuset.cpus", ("cpu", "cpus")),
    ("cpuset", "cpuset.mems", ("cpu", "mems")),
    ("pids", "pids.max", ("pids", "limit")),
)
#: Where v1 hierarchies are mounted, each in a directory of its own.
V1_ROOT = "/sys/fs/cgroup"
#: No limit on memory, as v1 says it: the largest multiple of a page in 63 bits.
V1_UNLIMITED = (1 << 63) - 4096
#: The same of cgroup v2, under its own names as `linux.resources.unified` takes them; and what each says of no limit.
V2_LIMITS = {
    "memory.max": "max",
    "memory.low": "0",
    "memory.swap.max": "max",
    "cpu.weight": "100",
    "cpu.max": "max 100000",
    "cpuset.cpus": "",
    "cpuset.mems": "",
    "pids.max": "max",
}


def in_one_cgroup(init: int, pids: list[int]) -> bool:
    """Whether one cgroup per hierarchy is all the container has: no sub-cgroups, no cgroup namespace."""
    if not os.path.samestat(os.stat(f"/proc/{init}/ns/cgroup"), os.stat("/proc/self/ns/cgroup")):
        return False
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found.add(Path(f"/proc/{pid}/cgroup").read_bytes())
    return len(found) == 1


def directories(pid: int, controller: str) -> Iterator[Path]:
    """Where a process is in the v1 hierarchy of a controller, or in the v2 one for "". The root does not count."""
    for controllers, path in proc.cgroups(pid):
        if path != "/" and controller in controllers.split(","):
            for mount in _mounts("cgroup" if controller else "cgroup2", controller):
                if (directory := mount / path.lstrip("/")).is_dir():
                    yield directory


def enter(pid: int, path: str, controller: str = "") -> None:
    """Move a process into the cgroup at `path` of a controller's hierarchy, or of each that has one there, unless it is
    in it already: a move waits for RCU. Raises OSError."""
    for controllers, now in proc.cgroups(pid):
        if now != path and (not controller or controller in controllers.split(",")):
            kind, option = ("cgroup", controllers.split(",")[0]) if controllers else ("cgroup2", "")
            for mount in _mounts(kind, option):
                if (directory := mount / path.lstrip("/")).is_dir():
                    (directory / "cgroup.procs").write_text(str(pid))


class Hierarchies:
    """The cgroup at `path` of every hierarchy, as far as a container that is restored here brought it into being.

    crun leaves it behind when a restore fails, and cannot use it the next time. `look`, then `claim` once the runtime
    has made it, then maybe `remove_claimed`.
    """

    def __init__(self, path: str) -> None:
        names = path.strip("/")
        self._path = names if names and ".." not in names.split("/") else None
        self._before: set[Path] = set()
        self._claimed: list[PathIdentity] = []

    def look(self) -> None:
        """What is there now is somebody else's."""
        self._before = set(self._present())

    def claim(self) -> None:
        """What has come into being since is this container's."""
        self._claimed = [
            PathIdentity(directory)
            for directory in self._present()
            if directory not in self._before
        ]

    def remove_claimed(self) -> None:
        """Remove it, with the cgroups in it, as far as no process is in them."""
        for identity in self._claimed:
            if identity.is_same():
                for directory, _, _ in os.walk(identity.path, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(directory)
            identity.close()
        self._claimed = []

    def _present(self) -> list[Path]:
        if self._path is None:
            return []
        mounts = [*_mounts("cgroup", ""), *_mounts("cgroup2", "")]
        return [directory for mount in mounts if (directory := mount / self._path).is_dir()]


def limits(pid: int) -> dict[str, Any]:
    """The limits in force of a process's own cgroups, as OCI `linux.resources`. What is not limited is left out."""
    found: dict[str, Any] = {}
    for controller, name, (section, field) in V1_LIMITS:
        for directory in directories(pid, controller):
            if (value := _v1_value(directory / name)) is not None:
                found.setdefault(section, {})[field] = value
    for directory in directories(pid, ""):
        for name, unlimited in V2_LIMITS.items():
            with contextlib.suppress(OSError):
                if (text := (directory / name).read_text().strip()) != unlimited:
                    found.setdefault("unified", {})[name] = text
    return found


def _v1_value(file: Path) -> int | str | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    if not text.lstrip("-").isdigit():
        return None if text in ("", "max") or not file.name.startswith("cpuset.") else text
    if file.name.startswith("cpuset."):
        return text
    return int(text) if 0 <= int(text) < V1_UNLIMITED else None


def _mounts(kind: str, option: str) -> list[Path]:
    """Where hierarchies of a kind are mounted."""
    return [
        Path(mount.point)
        for mount in proc.mounts("self")
        if mount.kind == kind and (not option or option in mount.options.split(","))
    ]
