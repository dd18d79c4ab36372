"""One node: a host of the rig, seen from this machine."""

import os
import subprocess
import sys
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from tests.rig import cgroups, names, network, process
from tests.rig.container import Container
from tests.rig.errors import BadUsage, RigError
from tests.rig.node_init import CGROUP_BASE, Spec

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
WRITABLE_SIZE = "8g"


class Node:
    """Runs commands in a node's namespaces and cgroups, as root there."""

    def __init__(self, rig: str, name: str) -> None:
        self.rig = rig
        self.name = name
        self.address = names.node_address(name)
        self.group = names.member(rig, name)

    @property
    def pid(self) -> int:
        """This machine's PID of the node's init."""
        pid = self._find_init()
        if pid is None:
            raise RigError(f"node {self.name} of rig {self.rig} is not running")
        return pid

    def is_running(self) -> bool:
        return self._find_init() is not None

    def _find_init(self) -> int | None:
        """Among the node's processes (its containers' have inits too) that which is 1 one namespace down."""
        depth = len(cgroups.pids_by_namespace(os.getpid())) + 1
        for pid in cgroups.pids(self.group):
            numbers = cgroups.pids_by_namespace(pid)
            if len(numbers) == depth and numbers[-1] == 1:
                return pid
        return None

    def start(self, *, tree: Path, seed: Path, directory: Path, lock_fd: int) -> None:
        """Start the node's init; it is ready when its sshd answers."""
        cgroups.create(self.group)
        work = directory / f"{self.name}.root"
        work.mkdir()
        spec = Spec(
            hostname=self.name,
            tree=str(tree),
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
        init: list[str | PathLike[str]] = [sys.executable, "-I", "-B", HERE / "node_init.py", "join", spec_path]
        process.run(init, keep_lock=True)

    def log(self, directory: Path) -> Path:
        return directory / f"{self.name}.log"

    @property
    def way_in(self) -> Sequence[str]:
        """What to put before a command to have it run here (see enter.py)."""
        entrances = [str(path) for path in cgroups.entrances(self.group)]
        return [sys.executable, "-I", "-S", "-B", str(HERE / "enter.py"), str(self.pid), *entrances, "--"]

    def run(
        self,
        argv: Sequence[str | PathLike[str]],
        *,
        check: bool = True,
        input: str | None = None,
        timeout: float | None = process.DEFAULT_TIMEOUT_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the node to its end."""
        return process.run(argv, through=self.way_in, check=check, input=input, timeout=timeout)

    def popen(
        self,
        argv: Sequence[str | PathLike[str]],
        *,
        stdin: process.Stream = subprocess.DEVNULL,
        stdout: process.Stream = None,
        stderr: process.Stream = None,
    ) -> subprocess.Popen[str]:
        """Start a command in the node; signals sent to the process reach it, and killing it kills the command."""
        return process.popen(argv, through=self.way_in, stdin=stdin, stdout=stdout, stderr=stderr)

    def copy(self, source: Path | str, target: str) -> None:
        """Copy a file, or what a directory holds, to a path in the node."""
        source = Path(source)
        if not source.exists():
            raise BadUsage(f"{source} is not there to be copied")
        # Packed by tar on this side, so that owners, modes, times and links arrive as they are.
        if source.is_dir():
            self.run(["mkdir", "-p", target])
            packed, unpack = ["-C", str(source), "."], ["-C", target]
        else:
            path = Path(target)
            self.run(["mkdir", "-p", str(path.parent)])
            rename = f"--transform=s,.*,{path.name},"
            packed, unpack = [rename, "-C", str(source.parent), source.name], ["-C", str(path.parent)]
        with subprocess.Popen(["tar", "-c", *packed], stdout=subprocess.PIPE) as tar:
            unpacking = self.popen(["tar", "-x", "--numeric-owner", *unpack], stdin=tar.stdout)
            if unpacking.wait() != 0 or tar.wait() != 0:
                raise RigError(f"copying {source} to {self.name}:{target} failed")

    def start_container(self, name: str, *, ip: str, argv: Sequence[str], memory: str | None = None) -> Container:
        """Run a container that goes on after this returns (see container.py)."""
        return Container.start(self, name, address=ip, argv=argv, memory=memory)


def _cgroup_mount(hierarchy: cgroups.Hierarchy) -> tuple[str, str, str]:
    inside = hierarchy.path.is_relative_to(CGROUP_BASE)
    path = str(hierarchy.path.relative_to(CGROUP_BASE)) if inside else hierarchy.path.name
    return path, "cgroup" if hierarchy.version == 1 else "cgroup2", hierarchy.options
