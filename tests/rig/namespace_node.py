"""A node made of namespaces and cgroups, over the nodes' Debian tree (node_init.py)."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from tests.rig import cgroups, network, process
from tests.rig.enter import ENVIRONMENT
from tests.rig.errors import RigError
from tests.rig.node import CHECKOUT, Node
from tests.rig.node_init import CGROUP_BASE, Spec
from tests.rig.wait import until

HERE = Path(__file__).resolve().parent
WRITABLE_SIZE = "8g"
INIT = [sys.executable, "-I", "-B", str(HERE / "node_init.py")]
#: What `sh` runs as ENTER PID CGROUP... -- COMMAND...: the process enters the cgroups before it
#: enters the cgroup namespace, and the command dies with the process that waits for it.
ENTER = """
pid=$1; shift
while [ "$1" != -- ]; do echo 0 > "$1/cgroup.procs" || exit 125; shift; done; shift
exec nsenter --target="$pid" --cgroup --ipc --uts --net --pid --mount --wdns=/ \\
    setpriv --pdeathsig=KILL "$@"
"""


class NamespaceNode(Node):
    """A node that starts in well under a second, and sees the checkout as it is now."""

    @property
    def unified_cgroups(self) -> bool:
        """Return whether the node has cgroups v2 alone, which it has if this machine has."""
        return any(hierarchy.is_only_one for hierarchy in cgroups.hierarchies())

    @property
    def pid(self) -> int:
        """Return this machine's PID of the node's first process.

        The containers' inits are in the node's cgroups, too: the node's own is the process that
        has number 1 exactly one PID namespace down. Raises RigError if there is none.
        """
        depth = len(cgroups.pids_by_namespace(os.getpid())) + 1
        for pid in cgroups.members(self.group):
            numbers = cgroups.pids_by_namespace(pid)
            if len(numbers) == depth and numbers[-1] == 1:
                return pid
        raise RigError(f"node {self.name} of rig {self.rig} is not running")

    def start(self, *, base: Path, seed: Path, directory: Path, lock_fd: int) -> None:
        """Start the node over the Debian tree `base` (Node.start)."""
        network.create_uplink(self.rig, self.name)
        cgroups.create(self.group)
        work = directory / f"{self.name}.root"
        work.mkdir()
        spec = Spec(
            hostname=self.name,
            tree=str(base),
            seed=str(seed),
            work=str(work),
            checkout=str(CHECKOUT),
            log=str(self.log(directory)),
            netns=str(network.netns_path(self.group)),
            cgroup_roots=[str(root) for root in cgroups.roots(self.group)],
            cgroup_mounts=[_cgroup_mount(hierarchy) for hierarchy in cgroups.hierarchies()],
            writable_size=WRITABLE_SIZE,
            lock_fd=lock_fd,
        )
        spec_path = self._spec_path(directory)
        spec_path.write_text(spec.to_json())
        process.run([*INIT, "join", str(spec_path)], keep_lock=True)

    def restart(self, directory: Path, lock_fd: int) -> None:
        """Kill all processes of the node at once, and start it again with its files.

        Like a host that has lost its power: what is in RAM is lost, and so is its network.
        """
        mounts = os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY)
        try:
            cgroups.remove(self.group)
            network.remove_uplink(self.rig, self.name)
            network.create_uplink(self.rig, self.name)
            cgroups.create(self.group)
            spec_path = self._spec_path(directory)
            spec = replace(Spec.load(spec_path), lock_fd=lock_fd)
            spec_path.write_text(spec.to_json())
            where = f"/proc/{os.getpid()}/fd/{mounts}"
            process.run([*INIT, "rejoin", str(spec_path), where], keep_lock=True)
            until(self.is_running, f"{self.name} to start again")
        finally:
            os.close(mounts)

    def _spec_path(self, directory: Path) -> Path:
        return directory / f"{self.name}.json"

    def ready(self, directory: Path) -> None:
        """Give the node's cgroups to its containers."""
        cgroups.delegate(self.group)

    def command(self, argv: Sequence[str | PathLike[str]]) -> Sequence[str | PathLike[str]]:
        """Return the command that runs argv in the node, by enter.py."""
        enter = [sys.executable, "-I", "-S", "-B", str(HERE / "enter.py")]
        return [*enter, *self._place(), *argv]

    def brief_command(self, argv: Sequence[str | PathLike[str]]) -> Sequence[str | PathLike[str]]:
        """Return the command that runs argv in the node, by nsenter(1), within a few milliseconds.

        A test runs very many of these, and Python alone takes ten times as long to start.
        """
        environment = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        return ["env", "-i", *environment, "sh", "-c", ENTER, "sh", *self._place(), *argv]

    def _place(self) -> Sequence[str | PathLike[str]]:
        """Return the arguments that tell enter.py and ENTER where the node is."""
        return [str(self.pid), *cgroups.entrances(self.group), "--"]


def _cgroup_mount(hierarchy: cgroups.Hierarchy) -> tuple[str, str, str]:
    inside = hierarchy.path.is_relative_to(CGROUP_BASE)
    path = str(hierarchy.path.relative_to(CGROUP_BASE)) if inside else hierarchy.path.name
    return path, "cgroup" if hierarchy.version == 1 else "cgroup2", hierarchy.options
