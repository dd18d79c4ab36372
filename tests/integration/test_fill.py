"""The container runs on the target and its memory is still on its way into it: what happens to it meanwhile."""

import subprocess
from collections.abc import Iterator

import pytest

from migrate.cli import exit_codes
from migrate.errors import LeftBehind
from tests.clients import status
from tests.integration.conftest import WORKLOADS, Hosts
from tests.rig import Container, Node, until

ADDRESS = "10.77.0.60"
PORT = 7106
MIB = 768
DIRTIER = [
    "python3",
    "-B",
    f"{WORKLOADS}/dirtier.py",
    "--mib",
    str(MIB),
    "--hot-mib",
    "8",
    "--mb-per-second",
    "4",
]
#: The agent and whoever stands by for it, in the order of their parents.
AGENTS = "for p in $(pgrep -f migrate-agent); do [ $p != $$ ] && echo $p; done"


@pytest.fixture
def dirtier(hosts: Hosts) -> Container:
    container = hosts.alpha.start_container("dirtier", ip=ADDRESS, argv=DIRTIER)
    assert status(hosts.rig.switch, ADDRESS, PORT)["ok"]
    return container


@pytest.fixture
def resumed(hosts: Hosts, dirtier: Container) -> Iterator[subprocess.Popen[str]]:
    """A move in the moment of the resume."""
    process = hosts.alpha.popen(
        ["migrate", dirtier.name, "beta"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        next(line for line in process.stderr if "resumed" in line)
        yield process
    finally:
        process.kill()
        process.communicate()


def agents(node: Node) -> list[int]:
    return [int(pid) for pid in node.run(["bash", "-c", AGENTS], check=False).stdout.split()]


def test_the_agent_is_killed(
    hosts: Hosts, dirtier: Container, resumed: subprocess.Popen[str]
) -> None:
    """Its pages come from the process that stands by; the tool says that it cannot see to the rest."""
    agent, keeper = agents(hosts.beta)
    hosts.beta.run(["kill", "-KILL", str(agent)])
    _, said = resumed.communicate(timeout=60)
    assert resumed.returncode == exit_codes.CODES[LeftBehind], said
    verdict = status(hosts.rig.switch, ADDRESS, PORT)
    assert verdict["ok"], verdict
    assert verdict["pages"] == MIB << 8
    until(lambda: keeper not in agents(hosts.beta), "the process that stood by to end")
    assert hosts.beta.run(["ls", "/run/migrate"]).stdout == "locks\n"
    assert Container(node=hosts.beta, name=dirtier.name, address=ADDRESS).status == "running"
    assert dirtier.status is None
    back = hosts.migrate(hosts.beta, dirtier.name, "alpha")
    assert back.returncode == 0, "the lock of the agent that was killed is in nobody's way"


def test_the_one_that_stands_by_is_killed(
    hosts: Hosts, dirtier: Container, resumed: subprocess.Popen[str]
) -> None:
    _, keeper = agents(hosts.beta)
    hosts.beta.run(["kill", "-KILL", str(keeper)])
    _, said = resumed.communicate(timeout=60)
    assert resumed.returncode == 0, said
    verdict = status(hosts.rig.switch, ADDRESS, PORT)
    assert verdict["ok"], verdict
    assert not agents(hosts.beta)
