"""One node: a host of the rig, seen from this machine.

A node is made of namespaces (namespace_node.py) or is a virtual machine (vm_node.py).
"""

import subprocess
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from tests.rig import cgroups, names
from tests.rig.container import Container
from tests.rig.errors import BadUsage, RigError, tail
from tests.rig.place import Place

CHECKOUT = Path(__file__).resolve().parents[2]


class Node(Place):
    """A node by name; it need not be running."""

    def __init__(self, rig: str, name: str) -> None:
        self.rig = rig
        self.name = name
        self.address = names.node_address(name)
        self.group = names.member(rig, name)

    @property
    @abstractmethod
    def unified_cgroups(self) -> bool:
        """Whether the node has cgroups v2 alone."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """The PID of the node on this machine. Raises RigError if the node is not running."""

    def is_running(self) -> bool:
        """Return whether the node is running."""
        try:
            return bool(self.pid)
        except RigError:
            return False

    @abstractmethod
    def start(self, *, base: Path, seed: Path, directory: Path, lock_fd: int) -> None:
        """Start the node on the Debian tree or disk `base`, with the files under `seed` over it.

        The node is ready when its sshd answers.
        """

    @abstractmethod
    def ready(self, directory: Path) -> None:
        """Do what remains to be done once the sshds of all nodes answer."""

    def check_alive(self, directory: Path) -> None:
        """Raise RigError with the node's last words if no process of it runs.

        The kernel's last words are left out, because they would hide the reason.
        """
        if not cgroups.pids(self.group):
            log = self.log(directory)
            lines = log.read_text().splitlines() if log.exists() else []
            said = [line for line in lines if not line.startswith("[ ")]
            raise RigError("\n".join([f"node {self.name} did not start:", tail("\n".join(said))]))

    def log(self, directory: Path) -> Path:
        """Return the file of this machine to which the node's first process writes."""
        return directory / f"{self.name}.log"

    def copy(self, source: Path | str, target: str) -> None:
        """Copy a file, or what a directory holds, to a path in the node.

        tar on this machine packs it, so that owners, modes, times and links arrive as they are.
        """
        source = Path(source)
        if not source.exists():
            raise BadUsage(f"{source} is not there to be copied")
        if source.is_dir():
            self.run(["mkdir", "-p", target])
            packed, unpack = ["-C", str(source), "."], ["-C", target]
        else:
            path = Path(target)
            self.run(["mkdir", "-p", str(path.parent)])
            rename = f"--transform=s,.*,{path.name},"
            packed, unpack = (
                [rename, "-C", str(source.parent), source.name],
                ["-C", str(path.parent)],
            )
        with subprocess.Popen(["tar", "-c", *packed], stdout=subprocess.PIPE) as tar:
            unpacking = self.popen(
                ["tar", "-x", "--numeric-owner", "--warning=no-timestamp", *unpack],
                stdin=tar.stdout,
            )
            if unpacking.wait() != 0 or tar.wait() != 0:
                raise RigError(f"copying {source} to {self.name}:{target} failed")

    def start_container(
        self,
        name: str,
        *,
        ip: str,
        argv: Sequence[str],
        memory: str | None = None,
        runtime: str = "runc",
    ) -> Container:
        """Run argv in a new container, which goes on after this returns (Container.start)."""
        return Container.start(self, name, address=ip, argv=argv, memory=memory, runtime=runtime)
