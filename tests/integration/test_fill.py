"""The container runs on the target, and its memory is still being filled in there.

The agent fills it in; the keeper, a child of the agent's, holds the same memory and stands by.
"""

import subprocess
from collections.abc import Iterator

import pytest

from migrate.cli import exit_codes
from migrate.errors import LeftBehind
from tests.rig import Container, Node, Workload, until
from tests.rig.hosts import Hosts

MIB = 768
#: Prints the PIDs of the agent and of its keeper, the parent first.
AGENTS = "for p in $(pgrep -f migrate-agent); do [ $p != $$ ] && echo $p; done"


@pytest.fixture
def dirtier(hosts: Hosts) -> Workload[Container]:
    """A container with so much memory that filling it in takes a while."""
    dirtier = hosts.start("dirtier", "--mib", str(MIB), "--hot-mib", "8", "--mb-per-second", "4")
    dirtier.verdict()
    return dirtier


@pytest.fixture
def resumed(hosts: Hosts, dirtier: Workload[Container]) -> Iterator[subprocess.Popen[str]]:
    """`migrate` on alpha, which has just said that the container was resumed."""
    argv = ["migrate", dirtier.name, "beta"]
    process = hosts.alpha.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        next(line for line in process.stderr if "resumed" in line)
        yield process
    finally:
        process.kill()
        process.communicate()


def agents(node: Node) -> list[int]:
    """Return the PIDs of the agent and its keeper on a node, as far as they are there."""
    return [int(pid) for pid in node.run(["bash", "-c", AGENTS], check=False).stdout.split()]


def test_the_keeper_fills_in_memory_if_the_agent_is_killed(
    hosts: Hosts, dirtier: Workload[Container], resumed: subprocess.Popen[str]
) -> None:
    """The pages come from the keeper; the tool says that it cannot see to the rest."""
    agent, keeper = agents(hosts.beta)
    hosts.beta.run(["kill", "-KILL", str(agent)])
    _, said = resumed.communicate(timeout=60)
    assert resumed.returncode == exit_codes.CODES[LeftBehind], said
    assert dirtier.verdict()["pages"] == MIB << 8
    until(lambda: keeper not in agents(hosts.beta), "the keeper to end")
    assert hosts.beta.run(["ls", "/run/migrate"]).stdout.split() == ["journal", "locks"]
    assert dirtier.on(hosts.beta).status == "running"
    assert dirtier.status is None
    back = hosts.migrate(hosts.beta, dirtier.name, "alpha")
    assert back.returncode == 0, "the lock of the agent that was killed is in nobody's way"


def test_the_agent_fills_in_memory_if_the_keeper_is_killed(
    hosts: Hosts, dirtier: Workload[Container], resumed: subprocess.Popen[str]
) -> None:
    _, keeper = agents(hosts.beta)
    hosts.beta.run(["kill", "-KILL", str(keeper)])
    _, said = resumed.communicate(timeout=60)
    assert resumed.returncode == 0, said
    dirtier.verdict()
    assert not agents(hosts.beta)
