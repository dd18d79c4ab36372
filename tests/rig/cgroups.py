"""A cgroup of its own for each node, in every hierarchy of this machine (v1, v2, or both).

A node enters its cgroups before it unshares the cgroup namespace, so that it sees them as roots.
Containers of one name on two nodes then do not meet.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.rig.errors import RigError
from tests.rig.node_init import CGROUP_BASE
from tests.rig.process import kill
from tests.rig.wait import until

MOUNT_TABLE = Path("/proc/self/mountinfo")
GRACE_S = 2.0
CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """A mounted cgroup hierarchy.

    `options` are what a mount of it needs: its controllers, or the name of a v1 hierarchy.
    """

    path: Path
    version: int
    options: str

    @property
    def is_only_one(self) -> bool:
        """Whether this machine has cgroups v2 alone; runtimes then want controllers from it."""
        return self.version == 2 and self.path == CGROUP_BASE

    def inner(self, group: str) -> Path:
        """Return the group that has a node's processes.

        A v2 group that gives controllers to its children may hold no process itself.
        """
        return self.path / group / "init" if self.is_only_one else self.path / group


def hierarchies() -> Sequence[Hierarchy]:
    """Return the hierarchies that are mounted on this machine, each once.

    Raises RigError if there is none.
    """
    found = []
    for line in MOUNT_TABLE.read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, super_options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            options = [
                word
                for word in super_options.split(",")
                if word not in ("rw", "ro", "xattr", "release_agent")
            ]
            found.append(
                Hierarchy(
                    path=Path(before.split(" ")[4]),
                    version=1 if kind == "cgroup" else 2,
                    options=_v1_options(options) if kind == "cgroup" else "",
                )
            )
    if not found:
        raise RigError("no cgroup hierarchy is mounted on this machine")
    return found


def _v1_options(super_options: Sequence[str]) -> str:
    """Return the mount options of a v1 hierarchy: its controllers, or `none` and its name."""
    controllers = [word for word in super_options if "=" not in word]
    names = [word for word in super_options if word.startswith("name=")]
    return ",".join(controllers or ["none", *names])


def create(group: str) -> None:
    """Make the group in every hierarchy."""
    for hierarchy in hierarchies():
        hierarchy.inner(group).mkdir(parents=True, exist_ok=True)
        if "cpuset" in hierarchy.options.split(","):
            for name in CPUSET_FILES:
                (hierarchy.path / group / name).write_text((hierarchy.path / name).read_text())


def delegate(group: str) -> None:
    """Give a v2 group's controllers to its children.

    What is in the group itself moves into the inner one, or the kernel would refuse.
    """
    for hierarchy in hierarchies():
        if not hierarchy.is_only_one:
            continue
        inner = hierarchy.inner(group)
        for pid in _read_pids(inner.parent):
            with contextlib.suppress(ProcessLookupError):
                (inner / "cgroup.procs").write_text(str(pid))
        for directory in (hierarchy.path, inner.parent):
            for controller in (directory / "cgroup.controllers").read_text().split():
                # Some controllers cannot be given everywhere, such as cpu beside real-time tasks.
                # Runtimes then do without.
                with contextlib.suppress(OSError):
                    (directory / "cgroup.subtree_control").write_text(f"+{controller}")


def roots(group: str) -> Sequence[Path]:
    """Return the group in each hierarchy, which the node sees as its root."""
    return [hierarchy.path / group for hierarchy in hierarchies()]


def limit_memory(group: str, more_bytes: int | None) -> None:
    """Have a group get so many bytes of memory more than it has; None is no limit."""
    for hierarchy in hierarchies():
        if hierarchy.is_only_one:
            used, limit, none = "memory.current", "memory.max", "max"
        elif "memory" in hierarchy.options.split(","):
            used, limit, none = "memory.usage_in_bytes", "memory.limit_in_bytes", "-1"
        else:
            continue
        directory = hierarchy.path / group
        room = none
        if more_bytes is not None:
            room = str(int((directory / used).read_text()) + more_bytes)
        (directory / limit).write_text(room)


def entrances(group: str) -> Sequence[Path]:
    """Return the group of each hierarchy into which a process goes that enters a node."""
    return [hierarchy.inner(group) for hierarchy in hierarchies()]


def members(group: str) -> Sequence[int]:
    """Return the processes of the group itself, without those of its children, in no order.

    A node's own processes are in the same group of every hierarchy, so one of them tells.
    """
    return _read_pids(entrances(group)[0])


def pids(group: str) -> set[int]:
    """Return the group's processes, with those of its children."""
    return {pid for directory in _subtrees(group) for pid in _read_pids(directory)}


def remove(group: str) -> None:
    """Kill the group's processes and remove it from every hierarchy."""
    inside = {pid for pid in pids(group) if is_in_a_node(pid)}
    if inside:
        kill(inside)
        _thaw(group)
        # Their parents outside reap them, and then end, too. Otherwise this machine's PID 1 has to,
        # and until it does the node's init, though dead, is not gone either.
        with contextlib.suppress(RigError):
            until(lambda: not pids(group), "parents to end", timeout_s=GRACE_S)
    until(lambda: _is_removed(group), f"the processes in cgroup {group} to die")


def is_in_a_node(pid: int) -> bool:
    """Return whether a process is in a PID namespace below this one."""
    return len(pids_by_namespace(pid)) > len(pids_by_namespace(os.getpid()))


def pids_by_namespace(pid: int) -> Sequence[int]:
    """Return a process's number in each PID namespace, from this one inwards.

    The result is empty if the process is gone.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()  # its name may be no text
    except OSError:
        return []
    return next(
        [int(word) for word in line.split()[1:]]
        for line in status.split(b"\n")
        if line.startswith(b"NSpid:")
    )


def _thaw(group: str) -> None:
    """Thaw the group: in the hierarchy of the v1 freezer a frozen process does not even die."""
    for directory in _subtrees(group):
        with contextlib.suppress(OSError):  # of another hierarchy, or the freezer's root
            (directory / "freezer.state").write_text("THAWED")


def _is_removed(group: str) -> bool:
    """Kill what is in the group, remove what is empty of it, and return whether it is gone."""
    kill(pids(group))
    _thaw(group)
    for directory in _subtrees(group):
        with contextlib.suppress(OSError):  # busy until the last process is gone
            directory.rmdir()
    return not any(_subtrees(group))


def _subtrees(group: str) -> Iterator[Path]:
    """Yield the group's directories in all hierarchies, the deepest first."""
    for hierarchy in hierarchies():
        for directory, _, _ in os.walk(hierarchy.path / group, topdown=False):
            yield Path(directory)


def _read_pids(directory: Path) -> Sequence[int]:
    try:
        return [int(word) for word in (directory / "cgroup.procs").read_text().split()]
    except OSError:  # removed since it was listed
        return []
