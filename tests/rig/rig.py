"""A rig: nodes on a switch, made and removed as a whole."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.rig import cgroups, names, network, seed
from tests.rig.errors import BadUsage, RigError
from tests.rig.lock import locked
from tests.rig.namespace_node import NamespaceNode
from tests.rig.node import CHECKOUT, Node
from tests.rig.switch import Switch
from tests.rig.tree import node_tree, vm_image
from tests.rig.vm_node import VmNode
from tests.rig.wait import until


class Rig:
    """A rig by name; it need not be up."""

    def __init__(self, name: str = names.DEFAULT_RIG) -> None:
        self.name = names.check_rig_name(name)
        self.directory = names.state_directory(name)
        self.switch = Switch(name)

    @property
    def keys(self) -> Path:
        """The directory of the nodes' host keys, and of the key that root has on all nodes."""
        return self.directory / "keys"

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes of a rig that is up; none otherwise."""
        return [self._node(node) for node in self._names()]

    def node(self, name: str) -> Node:
        """Return a node of the rig. Raises BadUsage if there is none of that name."""
        there = self._names()
        if name not in there:
            has = f"it has {', '.join(there)}" if there else "it is not up"
            raise BadUsage(f"rig {self.name} has no node {name!r}: {has}")
        return self._node(name)

    def is_up(self) -> bool:
        """Return whether the rig was made to the end and all of its nodes run."""
        nodes = self.nodes
        return bool(nodes) and all(node.is_running() for node in nodes)

    def up(self, nodes: int = 2, *, vm: bool = False) -> bool:
        """Make the rig, and return True; return False if it was there already.

        Raises BadUsage if it is there with other nodes. Nothing of it is left after a failure.
        """
        _must_be_root()
        wanted = names.node_names(nodes)
        base = vm_image() if vm else node_tree()
        with locked(names.lock_file(self.name)) as lock_fd:
            if self.is_up():
                if (list(wanted), vm) == (self._names(), self._state()["vm"]):
                    return False
                kind = "virtual machines" if self._state()["vm"] else "nodes"
                there = f"rig {self.name} is up with {kind} {', '.join(self._names())}"
                raise BadUsage(f"{there}: take it down first")
            self._clean()  # of what a killed `up` left
            made = VmNode if vm else NamespaceNode
            try:
                self._make([made(self.name, name) for name in wanted], base, lock_fd)
            except BaseException:
                self._clean()
                raise
        return True

    def reboot(self, name: str) -> None:
        """Have a node of namespaces lose its power, and start again (NamespaceNode.restart)."""
        node = self.node(name)
        assert isinstance(node, NamespaceNode)
        with locked(names.lock_file(self.name)) as lock_fd:
            node.restart(self.directory, lock_fd)
            self._wait_for_sshd([node])
            node.ready(self.directory)

    def down(self) -> None:
        """Remove every trace of the rig, whatever state it is in.

        The names of the rig tell what there is to remove, and not what `up` has written down.
        """
        _must_be_root()
        with locked(names.lock_file(self.name)):
            self._clean()
            names.lock_file(self.name).unlink()
            with contextlib.suppress(OSError):  # other rigs are there
                names.RUN_DIRECTORY.rmdir()

    def _make(self, nodes: Sequence[Node], base: Path, lock_fd: int) -> None:
        wanted = [node.name for node in nodes]
        self.directory.mkdir(mode=0o700)
        seed.make_keys(wanted, self.keys)
        network.create_switch(self.name)
        for node in nodes:
            files = self.directory / f"{node.name}.seed"
            seed.write_seed(files, wanted, node.name, self.keys)
            node.start(base=base, seed=files, directory=self.directory, lock_fd=lock_fd)
        self._wait_for_sshd(nodes)
        for node in nodes:
            node.ready(self.directory)
        # Written last: its presence says that the rig is whole.
        state = {"rig": self.name, "nodes": wanted, "vm": isinstance(nodes[0], VmNode)}
        state |= {"checkout": str(CHECKOUT), "base": str(base)}
        self._state_file.write_text(json.dumps(state, indent=2) + "\n")

    def _wait_for_sshd(self, nodes: Sequence[Node]) -> None:
        """Wait until each node shows its host key at its address."""
        silent = {node.name: node for node in nodes}

        def all_answer() -> bool:
            for name in self._answering(silent):
                del silent[name]
            for node in silent.values():
                node.check_alive(self.directory)
            return not silent

        until(all_answer, "sshd to answer on every node")

    def _answering(self, nodes: Iterable[str]) -> Sequence[str]:
        by_address = {names.node_address(node): node for node in nodes}
        scan = self.switch.run(["ssh-keyscan", "-t", "ed25519", *by_address], check=False)
        answers = (line.split() for line in scan.stdout.splitlines())
        return [
            by_address[at]
            for at, _, key in answers
            if key == seed.host_key(by_address[at], self.keys)
        ]

    def _clean(self) -> None:
        for member in names.members(self.name):
            cgroups.remove(member)
            # Some have no cgroup of the rig's, such as what was started in the switch.
            network.remove(member)
        if self.directory.exists():
            shutil.rmtree(self.directory)

    def _node(self, name: str) -> Node:
        return VmNode(self.name, name) if self._state()["vm"] else NamespaceNode(self.name, name)

    def _names(self) -> list[str]:
        names_: list[str] = self._state()["nodes"]
        return names_

    def _state(self) -> dict[str, Any]:
        """Return what `up` wrote down of a rig that was made to the end."""
        try:
            state: dict[str, Any] = json.loads(self._state_file.read_text())
        except FileNotFoundError:
            return {"nodes": [], "vm": False}
        return state

    @property
    def _state_file(self) -> Path:
        return self.directory / "state.json"


def existing() -> Sequence[str]:
    """Return the names of the rigs of which anything may be left.

    The lock of a rig is made first and removed last.
    """
    return sorted(path.stem for path in names.RUN_DIRECTORY.glob("*.lock"))


def _must_be_root() -> None:
    if os.geteuid() != 0:
        raise RigError("must be root: a rig is made of namespaces, mounts and cgroups")
