"""A node made of namespaces and cgroups, over an overlay of the nodes' Debian tree (see node_init.py)."""

import os
import sys
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from tests.rig import cgroups, network, process
from tests.rig.errors import RigError
from tests.rig.node import CHECKOUT, Node
from tests.rig.node_init import CGROUP_BASE, Spec

HERE = Path(__file__).resolve().parent
WRITABLE_SIZE = "8g"


class NamespaceNode(Node):
    """Starts in well under a second, and sees the checkout as it is now."""

    @property
    def unified_cgroups(self) -> bool:
        """As this machine has it."""
        return any(hierarchy.is_only_one for hierarchy in cgroups.hierarchies())

    @property
    def pid(self) -> int:
        """Among the node's processes (its containers' have inits too) that which is 1 one namespace down."""
        depth = len(cgroups.pids_by_namespace(os.getpid())) + 1
        for pid in cgroups.pids(self.group):
            numbers = cgroups.pids_by_namespace(pid)
            if len(numbers) == depth and numbers[-1] == 1:
                return pid
        raise RigError(f"node {self.name} of rig {self.rig} is not running")

    def start(self, *, base: Path, seed: Path, directory: Path, lock_fd: int) -> None:
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
        spec_path = directory / f"{self.name}.json"
        spec_path.write_text(spec.to_json())
        init: list[str | PathLike[str]] = [
            sys.executable,
            "-I",
            "-B",
            HERE / "node_init.py",
            "join",
            spec_path,
        ]
        process.run(init, keep_lock=True)

    def ready(self, directory: Path) -> None:
        cgroups.delegate(self.group)

    def command(self, argv: Sequence[str | PathLike[str]]) -> Sequence[str | PathLike[str]]:
        """Signals sent to the process reach the command, and killing it kills the command (see enter.py)."""
        entrances = cgroups.entrances(self.group)
        return [
            sys.executable,
            "-I",
            "-S",
            "-B",
            HERE / "enter.py",
            str(self.pid),
            *entrances,
            "--",
            *argv,
        ]


def _cgroup_mount(hierarchy: cgroups.Hierarchy) -> tuple[str, str, str]:
    inside = hierarchy.path.is_relative_to(CGROUP_BASE)
    path = str(hierarchy.path.relative_to(CGROUP_BASE)) if inside else hierarchy.path.name
    return path, "cgroup" if hierarchy.version == 1 else "cgroup2", hierarchy.options
