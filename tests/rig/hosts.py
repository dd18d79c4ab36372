"""The two hosts of a move, and what a user does on them."""

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.rig import traces
from tests.rig.container import Container
from tests.rig.node import Node
from tests.rig.node_init import CHECKOUT_IN_NODE
from tests.rig.rig import Rig
from tests.rig.seed import BYTECODE
from tests.rig.switch import Switch
from tests.rig.traces import Traces
from tests.rig.workload import Workload

MOVE_TIMEOUT_S = 120.0
NOTHING_CHANGED = "nothing was changed"

Report = Mapping[str, Any]


class Movable(Protocol):
    """A container of any engine, or a workload in one: they can be moved."""

    @property
    def node(self) -> Node:
        """The node on which it is."""

    @property
    def name(self) -> str:
        """The container's name."""

    def on(self, node: Node) -> Self:
        """Return the same on another node."""


Moved = TypeVar("Moved", bound=Movable)


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """alpha and beta of a rig. Tests start their containers on alpha."""

    rig: Rig
    alpha: Node
    beta: Node

    @classmethod
    def of(cls, rig: Rig) -> Self:
        """Return alpha and beta of a rig that is up."""
        return cls(rig=rig, alpha=rig.node("alpha"), beta=rig.node("beta"))

    @property
    def both(self) -> tuple[Node, Node]:
        """alpha and beta."""
        return self.alpha, self.beta

    @property
    def switch(self) -> Switch:
        """The switch between the hosts, where clients run."""
        return self.rig.switch

    def other(self, node: Node) -> Node:
        """Return the host that a node is not."""
        return self.beta if node.name == self.alpha.name else self.alpha

    def start(self, program: str, *words: str, memory: str | None = None) -> Workload[Container]:
        """Start a program of tests/workloads on alpha (Workload.start)."""
        return Workload.start(self.alpha, program, *words, memory=memory)

    def migrate(
        self, source: Node, *words: str, timeout: float = MOVE_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run `migrate WORDS...` on a host as a user would, and return how it ended."""
        return source.run(["migrate", *words], check=False, timeout=timeout)

    def migrate_with(
        self, tool: str, *arguments: str, timeout: float = MOVE_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run the tool on alpha with something wrong in it, by a program of tests/tools."""
        return self.alpha.run(tool_command(tool, *arguments), check=False, timeout=timeout)

    def move(
        self, container: Moved, *words: str, timeout: float = MOVE_TIMEOUT_S
    ) -> tuple[Moved, Report]:
        """Move a container to the other host, and return it as it is there, and the report.

        `words` are further options of `migrate`.
        """
        target = self.other(container.node)
        done = self.migrate(
            container.node, container.name, target.name, "--json", *words, timeout=timeout
        )
        assert done.returncode == 0, done.stderr
        return container.on(target), json.loads(done.stdout)

    def refused(self, *words: str) -> tuple[type[errors.MigrateError], str]:
        """Run `migrate WORDS...` on alpha, which must refuse in one line and change nothing.

        Return the class of its error, and what it said.
        """
        before = self.traces()
        done = self.migrate(self.alpha, *words)
        said = done.stderr.strip()
        assert done.stdout == ""
        assert done.returncode != 0
        assert len(said.splitlines()) == 1, said
        assert NOTHING_CHANGED in said
        assert self.new_traces(before) == {}
        by_code = {code: kind for kind, code in CODES.items()}
        return by_code[done.returncode], said

    def recover_as_told(self, said: str) -> None:
        """Do what the tool says is to be done about a held container."""
        found = re.search(r"'(migratectl recover [0-9a-f]{12})'", said)
        assert found is not None, said
        assert self.alpha.run(found[1].split()).returncode == 0

    def traces(self) -> Mapping[str, Traces]:
        """Return what there is on either host now, by host."""
        return {node.name: traces.traces(node) for node in self.both}

    def new_traces(self, before: Mapping[str, Traces]) -> Mapping[str, Traces]:
        """Return what is on the hosts now and was not before, by host, if there is any."""
        found = {node.name: traces.new_traces(node, before[node.name]) for node in self.both}
        return {name: new for name, new in found.items() if new}

    def settled(self, before: Mapping[str, Traces]) -> Mapping[str, Traces]:
        """Return the same, once new traces are gone or have stayed for a while (traces.settled)."""
        found = {node.name: traces.settled(node, before[node.name]) for node in self.both}
        return {name: new for name, new in found.items() if new}


def tool_command(tool: str, *arguments: str) -> list[str]:
    """Return the command that runs a program of tests/tools on a node.

    It shares the bytecode that `migrate` has written there: compiling all of it takes a second.
    """
    words = ["python3", "-m", f"tests.tools.{tool}", *arguments]
    script = f'cd {CHECKOUT_IN_NODE} && export PYTHONPYCACHEPREFIX={BYTECODE} && exec "$@"'
    return ["sh", "-c", script, "sh", *words]
