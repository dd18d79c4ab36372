"""Workloads: programs in containers that can be asked whether all is well with them.

A program of tests/workloads answers the line STATUS with its verdict in JSON: `ok`, `errors`, and
counters of what it has done. It looks at all that it keeps before it answers, so `ok` says that
no byte was lost. redis gives no verdict: its client and the digest of its data do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

from tests.rig.clients import Client, program_command
from tests.rig.container import Container
from tests.rig.engine import EngineContainer
from tests.rig.node import Node
from tests.rig.node_init import CHECKOUT_IN_NODE
from tests.rig.switch import Switch
from tests.rig.wait import until

WORKLOADS = CHECKOUT_IN_NODE / "tests/workloads"
ADDRESS = "10.77.0.50"
#: The port on which each program of tests/workloads listens unless it is told another.
PORTS = {
    "alarms": 7110,
    "appender": 7102,
    "churn": 7107,
    "crowd": 7109,
    "dirtier": 7106,
    "prefork": 7108,
    "toucher": 7107,
    "tree": 7101,
}
REDIS = ["redis-server", "--bind", "0.0.0.0", "--save", "", "--protected-mode", "no"]  # noqa: S104
REDIS_PORT = 6379
#: Keys of the client, which change all the time.
CLIENTS_KEYS = "client:*"
FILL_TIMEOUT_S = 900.0

C = TypeVar("C", Container, EngineContainer)


@dataclass(frozen=True, kw_only=True)
class Workload(Generic[C]):
    """A program in a container, and the port on which it listens.

    The workload is ready when its answer to `question` contains `answer`. The question must be
    cheap: STATUS would have the program look at all of its memory.
    """

    container: C
    port: int
    question: str = "INCR ready"
    answer: str = ":"

    @staticmethod
    def start(
        node: Node,
        program: str,
        *words: str,
        argv: Sequence[str] = (),
        memory: str | None = None,
    ) -> Workload[Container]:
        """Run a program of tests/workloads in a container of runc's, and wait until it is ready.

        The container has the program's name. `words` are the program's arguments; `argv` is what
        the container runs instead, if there must be something around the program. `memory` is the
        container's limit, such as 96M.
        """
        container = node.start_container(
            program, ip=ADDRESS, argv=argv or command(program, *words), memory=memory
        )
        return Workload(container=container, port=PORTS[program]).ready()

    @property
    def node(self) -> Node:
        """The node on which the container is."""
        return self.container.node

    @property
    def name(self) -> str:
        """The container's name."""
        return self.container.name

    @property
    def address(self) -> str:
        """The container's address, which it keeps wherever it goes."""
        return self.container.address

    @property
    def status(self) -> str | None:
        """The engine's word for the container: running, ...; None if there is no such container."""
        return self.container.status

    @property
    def switch(self) -> Switch:
        """The switch, from which clients reach the container."""
        return Switch(self.node.rig)

    def on(self, node: Node) -> Self:
        """Return the same workload on another node."""
        return replace(self, container=self.container.on(node))

    def ask(self, line: str) -> str:
        """Return the program's answer to a line, or "" while it does not listen (Switch.ask)."""
        return self.switch.ask(self.address, self.port, line)

    def answers(self) -> bool:
        """Return whether the workload is ready now."""
        return self.answer in self.ask(self.question)

    def ready(self) -> Self:
        """Wait until the workload is ready, and return it."""
        until(self.answers, f"{self.name} to answer", timeout_s=FILL_TIMEOUT_S)
        return self

    def verdict(self) -> Mapping[str, Any]:
        """Wait for the program's verdict, which must be that all is well, and return it."""
        said = until(lambda: self.ask("STATUS"), f"{self.name} to answer")
        found: Mapping[str, Any] = json.loads(said)
        assert found["ok"], found
        return found

    def goes_on(self, counter: str, by: int = 1) -> Mapping[str, Any]:
        """Wait until a counter of the verdict has grown by so much, and return the verdict then."""
        wanted = self.verdict()[counter] + by

        def grown() -> Mapping[str, Any] | None:
            found = self.verdict()
            return found if found[counter] >= wanted else None

        return until(grown, f"{self.name} to count {by} more {counter}")

    def client(self, program: str = "redis_client.py") -> Client:
        """Return a client of this workload, to be used as a context (clients.py)."""
        return Client(self.switch, self.address, self.port, program)

    def remove(self) -> None:
        """Remove the container from its node."""
        self.container.remove()


@dataclass(frozen=True, kw_only=True)
class Redis(Workload[C]):
    """redis in a container."""

    port: int = REDIS_PORT
    question: str = "PING"
    answer: str = "+PONG"

    def fill(self, mib: int) -> None:
        """Have redis hold so many MiB of data that a digest knows again."""
        self._data("fill", "--mib", str(mib))

    def digest(self) -> Mapping[str, Any]:
        """Return how many `keys` there are but the client's, and a `digest` of all their values."""
        return self._data("digest", "--exclude", CLIENTS_KEYS)

    def _data(self, *words: str) -> Mapping[str, Any]:
        argv = [*program_command("redis_data.py"), self.address, str(self.port), *words]
        return dict(json.loads(self.switch.run(argv, timeout=300).stdout))


def command(program: str, *words: str) -> list[str]:
    """Return the command that runs a program of tests/workloads in a container."""
    return ["python3", "-B", f"{WORKLOADS}/{program}.py", *words]


def start_redis(
    node: Node, *, runtime: str = "runc", memory: str | None = None
) -> Redis[Container]:
    """Run redis in a container of runc's or crun's, and wait until it is ready."""
    container = node.start_container(
        "redis", ip=ADDRESS, argv=REDIS, memory=memory, runtime=runtime
    )
    return Redis(container=container).ready()
