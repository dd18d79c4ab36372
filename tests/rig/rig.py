"""A rig: nodes on a switch, made and removed as a whole."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.rig import cgroups, names, network, seed
from tests.rig.errors import BadUsage, RigError, tail
from tests.rig.lock import locked
from tests.rig.node import CHECKOUT, Node
from tests.rig.switch import Switch
from tests.rig.tree import node_tree
from tests.rig.wait import until


class Rig:
    """A rig by name; it need not be up."""

    def __init__(self, name: str = names.DEFAULT_RIG) -> None:
        self.name = names.check_rig_name(name)
        self.directory = names.state_directory(name)
        self.switch = Switch(name)

    @property
    def keys(self) -> Path:
        """Host keys of the nodes and the key that root has on all of them."""
        return self.directory / "keys"

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes of a rig that is up; none otherwise."""
        return [Node(self.name, node) for node in self._state()]

    def node(self, name: str) -> Node:
        state = self._state()
        if name not in state:
            there = f"it has {', '.join(state)}" if state else "it is not up"
            raise BadUsage(f"rig {self.name} has no node {name!r}: {there}")
        return Node(self.name, name)

    def is_up(self) -> bool:
        nodes = self.nodes
        return bool(nodes) and all(node.is_running() for node in nodes)

    def up(self, nodes: int = 2) -> bool:
        """Make the rig; False if it was there already. After a failure nothing of it is left."""
        _must_be_root()
        wanted = names.node_names(nodes)
        tree = node_tree()
        with locked(names.lock_file(self.name)) as lock_fd:
            if self.is_up():
                if list(wanted) == self._state():
                    return False
                raise BadUsage(f"rig {self.name} is up with nodes {', '.join(self._state())}: take it down first")
            self._clean()  # of what a killed `up` left
            try:
                self._make(wanted, tree, lock_fd)
            except BaseException:
                self._clean()
                raise
        return True

    def down(self) -> None:
        """Remove every trace of the rig, whatever state it is in, by name rather than by what was written down."""
        _must_be_root()
        with locked(names.lock_file(self.name)):
            self._clean()
            names.lock_file(self.name).unlink()
            with contextlib.suppress(OSError):  # other rigs are there
                names.RUN_DIRECTORY.rmdir()

    def _make(self, nodes: Sequence[str], tree: Path, lock_fd: int) -> None:
        self.directory.mkdir(mode=0o700)
        seed.make_keys(nodes, self.keys)
        network.create_switch(self.name)
        for name in nodes:
            network.create_uplink(self.name, name)
            files = self.directory / f"{name}.seed"
            seed.write_seed(files, nodes, name, self.keys)
            Node(self.name, name).start(tree=tree, seed=files, directory=self.directory, lock_fd=lock_fd)
        self._wait_for_sshd(nodes)
        for name in nodes:
            cgroups.delegate(names.member(self.name, name))
        # Written last: its presence says that the rig is whole.
        state = {"rig": self.name, "nodes": list(nodes), "checkout": str(CHECKOUT), "tree": str(tree)}
        self._state_file.write_text(json.dumps(state, indent=2) + "\n")

    def _wait_for_sshd(self, nodes: Sequence[str]) -> None:
        """Until each node shows its host key at its address."""
        silent = set(nodes)

        def all_answer() -> bool:
            silent.difference_update(self._answering(silent))
            for name in silent:
                self._check_alive(name)
            return not silent

        until(all_answer, "sshd to answer on every node")

    def _answering(self, nodes: Iterable[str]) -> Sequence[str]:
        by_address = {names.node_address(node): node for node in nodes}
        scan = self.switch.run(["ssh-keyscan", "-t", "ed25519", *by_address], check=False)
        answers = (line.split() for line in scan.stdout.splitlines())
        return [by_address[at] for at, _, key in answers if key == seed.host_key(by_address[at], self.keys)]

    def _check_alive(self, name: str) -> None:
        node = Node(self.name, name)
        if not cgroups.pids(node.group):
            log = node.log(self.directory)
            raise RigError(f"node {name} did not start:\n{tail(log.read_text()) if log.exists() else ''}")

    def _clean(self) -> None:
        for member in names.members(self.name):
            cgroups.remove(member)
            # Some have no cgroup of the rig's, such as what was started in the switch.
            network.remove(member)
        if self.directory.exists():
            shutil.rmtree(self.directory)

    def _state(self) -> list[str]:
        """Names of the nodes of a rig that was made to the end."""
        try:
            nodes: list[str] = json.loads(self._state_file.read_text())["nodes"]
        except FileNotFoundError:
            return []
        return nodes

    @property
    def _state_file(self) -> Path:
        return self.directory / "state.json"


def existing() -> Sequence[str]:
    """Names of the rigs of which anything may be left: the lock is made first and removed last."""
    return sorted(path.stem for path in names.RUN_DIRECTORY.glob("*.lock"))


def _must_be_root() -> None:
    if os.geteuid() != 0:
        raise RigError("must be root: a rig is made of namespaces, mounts and cgroups")
