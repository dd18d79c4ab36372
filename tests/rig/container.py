"""A container of runc's or crun's: a bundle, and a network namespace on its node's bridge."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tests.rig import names, network
from tests.rig.bundle import parse_size, write_bundle
from tests.rig.errors import BadUsage, CommandFailed, RigError
from tests.rig.node_init import CHECKOUT_IN_NODE, PYTHON_IN_NODE
from tests.rig.tree import node_tree

if TYPE_CHECKING:
    from tests.rig.node import Node

BUNDLES = PurePosixPath("/srv/containers")
LOGS = PurePosixPath("/var/log/containers")
#: Where README.md says that the output of a container goes that was moved.
LOGS_OF_MOVED = PurePosixPath("/var/log/migrate")
DETACHED = CHECKOUT_IN_NODE / "tests/rig/detached.py"


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container by name on a node; it need not be running."""

    node: Node
    name: str
    address: str
    runtime: str = "runc"

    @classmethod
    def start(
        cls,
        node: Node,
        name: str,
        *,
        address: str,
        argv: Sequence[str],
        memory: str | None,
        runtime: str = "runc",
    ) -> Container:
        """Run argv in a new container, with a memory limit such as 96M if there is to be one.

        The container goes on after this returns. Raises BadUsage for a name or an address that
        cannot be or is taken, and CommandFailed if the runtime fails; nothing is left then.
        """
        names.check_container_name(name)
        names.check_address(address)
        if not argv:
            raise BadUsage("no command given for the container")
        memory_bytes = None if memory is None else parse_size(memory)
        container = cls(node=node, name=name, address=address, runtime=runtime)
        if node.run(["test", "-e", str(container.bundle)], check=False).returncode == 0:
            raise BadUsage(f"{node.name} already has a container {name}")
        try:
            with tempfile.TemporaryDirectory(prefix="rig-bundle-") as scratch:
                write_bundle(
                    Path(scratch),
                    tree=node_tree(),
                    name=name,
                    address=address,
                    argv=argv,
                    memory_bytes=memory_bytes,
                    unified_cgroups=node.unified_cgroups,
                )
                node.copy(scratch, str(container.bundle))
            container.plug()
            container.leave("run", "-d", "--bundle", str(container.bundle))
        except RigError:
            container.remove()
            raise
        return container

    @property
    def bundle(self) -> PurePosixPath:
        """The container's bundle, in the node."""
        return BUNDLES / self.name

    @property
    def log(self) -> PurePosixPath:
        """The file in the node to which the container's output is appended where it was started."""
        return LOGS / f"{self.name}.log"

    @property
    def status(self) -> str | None:
        """The runtime's word for it: running, stopped, ...; None if there is no such container."""
        state = self._state()
        return None if state is None else str(state["status"])

    @property
    def pid(self) -> int:
        """The PID, in the node, of the container's init. Raises RigError if it does not run."""
        state = self._state()
        if state is None or state["status"] != "running":
            raise RigError(f"container {self.name} is not running on {self.node.name}")
        return int(str(state["pid"]))

    def on(self, node: Node) -> Container:
        """Return the same container on another node."""
        return replace(self, node=node)

    def printed(self) -> str:
        """Return what the container has printed on this node since it came here."""
        moved = LOGS_OF_MOVED / self.log.name
        script = f"cat {moved} 2> /dev/null || cat {self.log}"
        return self.node.run(["sh", "-c", script]).stdout

    def plug(self, *, connected: bool = True) -> None:
        """Make the container's network in the node (network.plug_container)."""

        def in_node(argv: Sequence[str], text: str) -> object:
            return self.node.run(argv, input=text)

        network.plug_container(in_node, self.name, self.address, connected=connected)

    def unplug(self) -> None:
        """Remove the container's network from the node, if it is there."""
        # The link is removed first and by itself: with its namespace it would go some time later.
        self.node.run(["ip", "link", "delete", names.host_interface(self.name)], check=False)
        self.node.run(["ip", "netns", "delete", self.name], check=False)

    def leave(self, verb: str, *options: str) -> None:
        """Run a command of the runtime's that leaves the container behind: run -d, restore -d.

        The container's output goes to the log. Raises CommandFailed with the end of the log.
        """
        detached = [PYTHON_IN_NODE, "-I", "-B", str(DETACHED), str(self.log)]
        argv = [self.runtime, verb, *options, self.name]
        try:
            self.node.run([*detached, *argv])
        except CommandFailed as error:
            # The runtime wrote its reason where the container's output goes.
            log = self.node.run(["tail", "-n", "20", str(self.log)], check=False).stdout
            raise CommandFailed(argv, error.status, "", error.stderr + log) from error

    def remove(self) -> None:
        """Kill the container and remove its traces from the node, its log excepted.

        Nothing happens if there are none.
        """
        self.node.run([self.runtime, "delete", "--force", self.name], check=False)
        self.unplug()
        self.node.run(["rm", "-rf", "--one-file-system", str(self.bundle)])

    def _state(self) -> dict[str, object] | None:
        answer = self.node.run([self.runtime, "state", self.name], check=False)
        if answer.returncode != 0:
            return None
        state: dict[str, object] = json.loads(answer.stdout)
        return state
