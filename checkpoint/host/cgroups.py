"""The cgroups of a container: the place of its processes in the hierarchies, and their limits.

Kernel: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpoint.host import proc
from checkpoint.host.identity import PathRecord
from checkpoint.undo import Made

#: Limits of cgroup v1 that the engines' `update` commands set: controller, file, and the section
#: and field of OCI `linux.resources`.
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
#: The directory below which v1 hierarchies are mounted, each at a directory of its own.
V1_ROOT = "/sys/fs/cgroup"
#: The value of a v1 memory limit that is not set: the largest multiple of a page in 63 bits.
V1_UNLIMITED = (1 << 63) - 4096
#: Limits of cgroup v2 that `update` commands set: the file, which is also the key in OCI
#: `linux.resources.unified`, and its content when nothing is limited.
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
    """Return whether all processes `pids` of a container are in the same cgroups.

    The answer is False for a container with a cgroup namespace, whose processes may make cgroups of
    their own. Raises OSError when the process `init` is gone.
    """
    own = os.stat(proc.path("self", "ns", "cgroup"))
    if not os.path.samestat(os.stat(proc.path(init, "ns", "cgroup")), own):
        return False
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found.add(proc.read(pid, "cgroup"))
    return len(found) == 1


def directories(pid: int, controller: str) -> Iterator[Path]:
    """Yield the directories of a process's cgroup in the v1 hierarchy of `controller`.

    A `controller` of "" means the v2 hierarchy. A process in the root cgroup of the hierarchy has
    no directory. There are several if the hierarchy is mounted more than once.
    """
    for controllers, path in proc.cgroups(pid):
        if path != "/" and controller in controllers.split(","):
            for mount in _mounts("cgroup" if controller else "cgroup2", controller):
                if (directory := mount / path.lstrip("/")).is_dir():
                    yield directory


def enter(pid: int, path: str, controller: str = "") -> None:
    """Move a process into the cgroup at `path` of the hierarchy of `controller`.

    A `controller` of "" means every hierarchy. A hierarchy without a cgroup at `path` is ignored. A
    process that is in the cgroup already is not moved, because a move waits for an RCU grace
    period. Raises OSError.
    """
    for controllers, now in proc.cgroups(pid):
        if now != path and (not controller or controller in controllers.split(",")):
            kind, option = ("cgroup", controllers.split(",")[0]) if controllers else ("cgroup2", "")
            for mount in _mounts(kind, option):
                if (directory := mount / path.lstrip("/")).is_dir():
                    (directory / "cgroup.procs").write_text(str(pid))


class MadeCgroups(Made):
    """Cgroups that a runtime has made, with the cgroups beneath them; with processes they stay."""

    on_disk = False

    directories: tuple[PathRecord, ...]

    def __str__(self) -> str:
        return f"cgroups {', '.join(record.path for record in self.directories)}"

    def remove(self) -> None:
        for record in self.directories:
            if record.is_same():
                for directory, _, _ in os.walk(record.path, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(directory)


class Hierarchies:
    """The cgroups at `path` of all hierarchies that the restore of a container makes on the target.

    crun leaves these cgroups behind when a restore fails, and the next restore cannot use them.
    Call `look` before the runtime starts, and `made` when it has made the cgroups. An empty `path`,
    or one with "..", is ignored.
    """

    def __init__(self, path: str) -> None:
        names = path.strip("/")
        self._path = names if names and ".." not in names.split("/") else None
        self._before: set[Path] = set()

    def look(self) -> None:
        """Note the cgroups that exist now: they are not this container's."""
        self._before = set(self._present())

    def made(self) -> MadeCgroups:
        """Return the cgroups that came into being since `look`: they are this container's."""
        new = [directory for directory in self._present() if directory not in self._before]
        return MadeCgroups(directories=tuple(map(PathRecord.of, new)))

    def _present(self) -> list[Path]:
        if self._path is None:
            return []
        mounts = [*_mounts("cgroup", ""), *_mounts("cgroup2", "")]
        return [directory for mount in mounts if (directory := mount / self._path).is_dir()]


def limits(pid: int) -> dict[str, Any]:
    """Return the limits in force in a process's own cgroups, as OCI `linux.resources`.

    A limit of V1_LIMITS or V2_LIMITS is left out if it is not set. The v1 cpu shares and period
    always have values, and are always there. Limits of parent cgroups do not count.
    """
    found: dict[str, Any] = {}
    for controller, name, (section, field) in V1_LIMITS:
        for directory in directories(pid, controller):
            if (value := v1_limit(directory / name)) is not None:
                found.setdefault(section, {})[field] = value
    for directory in directories(pid, ""):
        for name, unlimited in V2_LIMITS.items():
            with contextlib.suppress(OSError):
                if (text := (directory / name).read_text().strip()) != unlimited:
                    found.setdefault("unified", {})[name] = text
    return found


def v1_limit(file: Path) -> int | str | None:
    """Return the limit that a file of cgroup v1 says, or None if it says none or is not there.

    The limits of cpusets are texts, all others numbers.
    """
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
    """Return the mount points of file systems of type `kind`, with `option` if one is given."""
    return [
        Path(mount.point)
        for mount in proc.mounts("self")
        if mount.kind == kind and (not option or option in mount.options.split(","))
    ]
