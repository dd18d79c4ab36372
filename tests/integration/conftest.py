"""Two hosts, and what every test of a move needs on them."""

import contextlib
import json
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.clients import REDIS_PORT, ask
from tests.rig import Container, Node, Rig, RigError, until
from tests.rig.engine import EngineContainer, load, set_up
from tests.services import REDIS_IMAGE, write_redis

REDIS = ["redis-server", "--bind", "0.0.0.0", "--save", "", "--protected-mode", "no"]  # noqa: S104 - in the rig
REDIS_ADDRESS = "10.77.0.50"
CHECKOUT = "/opt/migrate"
WORKLOADS = f"{CHECKOUT}/tests/workloads"
MOVE_TIMEOUT_S = 120.0
#: A CRIU with which a restore fails: it may open too few files.
BROKEN = """#!/bin/sh
[ "$1" = swrk ] && ulimit -n 14
exec /usr/sbin/criu.kept "$@"
"""


Moved = TypeVar("Moved", Container, EngineContainer)


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """alpha and beta, and the switch between them where clients live."""

    rig: Rig
    alpha: Node
    beta: Node

    def other(self, node: Node) -> Node:
        return self.beta if node.name == self.alpha.name else self.alpha

    def migrate(self, source: Node, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the tool as a user would; its exit status is the caller's to look at."""
        return source.run(
            ["migrate", *words], check=False, timeout=MOVE_TIMEOUT_S * source.slowness
        )

    def migrate_with(
        self, tool: str, *arguments: str, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Likewise on alpha, by a program of tests/tools, which runs it altered."""
        return self.alpha.run(tool_command(tool, *arguments), check=False, timeout=timeout)

    def move(self, container: Moved, source: Node) -> tuple[Moved, Mapping[str, Any]]:
        """Move a container to the other host; the container there, and the report."""
        target = self.other(source)
        done = self.migrate(source, container.name, target.name, "--json")
        assert done.returncode == 0, done.stderr
        report: Mapping[str, Any] = json.loads(done.stdout)
        return replace(container, node=target), report


def log(container: Container) -> str:
    """Where its output goes: on the host where it was moved to, and where it was started."""
    moved = f"/var/log/migrate/{container.name}.log"
    there = container.node.run(["test", "-e", moved], check=False).returncode == 0
    return moved if there else str(container.log)


def said(container: Container) -> str:
    return container.node.run(["cat", log(container)]).stdout


def goes_on_through_moves(hosts: Hosts, container: Container) -> None:
    """Move a container there and back that prints `goes on` as long as all is as it should be."""
    for _ in range(2):
        until(lambda: "goes on" in said(container), "it to go on")  # noqa: B023
        container, _ = hosts.move(container, container.node)
        before = said(container).count("goes on")
        until(lambda: said(container).count("goes on") > before + 1, "it to go on")  # noqa: B023
        assert set(said(container).splitlines()) == {"goes on"}


def tool_command(tool: str, *arguments: str) -> list[str]:
    """The command that runs a program of tests/tools on a node."""
    words = ["python3", "-B", "-m", f"tests.tools.{tool}", *arguments]
    return ["sh", "-c", f'cd {CHECKOUT} && exec "$@"', "sh", *words]


#: What a move could leave on a host, by kind.
TRACES = {
    "mounts": ["awk", '$5 != "/run/netns" {print $5}', "/proc/self/mountinfo"],
    "links": ["ip", "-o", "link", "show"],
    "netns": ["ip", "netns", "list"],
    "cgroups": ["find", "/sys/fs/cgroup", "-type", "d"],
    "processes": ["ps", "-eo", "args", "--no-headers"],
    "files": [
        "find",
        "/run/migrate",
        "/run/runc",
        "-mindepth",
        "1",
        "-not",
        "-path",
        "/run/migrate/locks",
    ],
    "rules": ["nft", "--stateless", "list", "ruleset"],
}
#: All of it in one go, for this is done around every test.
SECTION = "=== "
LOOK = "; ".join(
    f"echo '{SECTION}{kind}'; {shlex.join(argv)} 2>/dev/null" for kind, argv in TRACES.items()
)
#: Of the processes, those that look, that serve an SSH connection which is about to end, or that are kernel threads.
LOOKING = ("ps -eo", f"sh -c echo '{SECTION}", "sshd", "[")


def traces(node: Node) -> Mapping[str, list[str]]:
    """What there is on a host now. Containers of the test are removed before this is compared."""
    found: dict[str, list[str]] = {}
    for line in node.run(["sh", "-c", LOOK], check=False).stdout.splitlines():
        if line.startswith(SECTION):
            found[line.removeprefix(SECTION)] = lines = []
        else:
            lines.append(line)
    found["links"] = [line.split(": ")[1] for line in found["links"]]
    found["processes"] = [line for line in found["processes"] if not line.startswith(LOOKING)]
    return found


def new_traces(
    before: Mapping[str, list[str]], after: Mapping[str, list[str]]
) -> Mapping[str, list[str]]:
    """By kind, what is there now and was not before."""
    new = {
        kind: sorted((Counter(after[kind]) - Counter(before[kind])).elements()) for kind in after
    }
    return {kind: found for kind, found in new.items() if found}


def settled(node: Node, before: Mapping[str, list[str]]) -> Mapping[str, list[str]]:
    """New traces on a node, once they are gone or have stayed for a while.

    Processes at the other end of a container's pipes take a moment to notice that it ended.
    """
    with contextlib.suppress(RigError):
        until(lambda: not new_traces(before, traces(node)), "traces to go", timeout_s=5)
    return new_traces(before, traces(node))


class without:
    """A node that lacks something for a while: a path is moved aside, or replaced by a script."""

    def __init__(self, node: Node, path: str, script: str | None = None) -> None:
        self._node, self._path, self._script = node, path, script

    def __enter__(self) -> None:
        self._node.run(["mv", self._path, f"{self._path}.kept"])
        if self._script is not None:
            write = f"cat > {self._path} && chmod 755 {self._path}"
            self._node.run(["sh", "-c", write], input=self._script)

    def __exit__(self, *_: object) -> None:
        self._node.run(["mv", f"{self._path}.kept", self._path])


@pytest.fixture
def hosts(rig: Rig) -> Iterator[Hosts]:
    """Both hosts, left by the test as it found them: anything else is the tool's fault and fails."""
    both = Hosts(rig=rig, alpha=rig.node("alpha"), beta=rig.node("beta"))
    before = {node.name: traces(node) for node in (both.alpha, both.beta)}
    yield both
    for node in (both.alpha, both.beta):
        for name in node.run(["runc", "list", "--quiet"], check=False).stdout.split():
            Container(node=node, name=name, address="").remove()
        node.run(["sh", "-c", "rm -rf --one-file-system /srv/containers/*"])
    for node in (both.alpha, both.beta):
        assert settled(node, before[node.name]) == {}


@pytest.fixture
def redis(hosts: Hosts) -> Container:
    """redis on alpha."""
    container = hosts.alpha.start_container("redis", ip=REDIS_ADDRESS, argv=REDIS)
    until(
        lambda: ask(hosts.rig.switch, REDIS_ADDRESS, REDIS_PORT, "PING") == "+PONG",
        "redis to answer",
    )
    return container


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with redis."""
    path = tmp_path_factory.mktemp("image") / "redis.tar"
    write_redis(path)
    return path


@pytest.fixture(scope="session", params=["podman", "docker"])
def engine(rig: Rig, archive: Path, request: pytest.FixtureRequest) -> str:
    """One that works on both hosts, has the image, and has run a container: what it leaves for ever is there."""
    for node in rig.nodes:
        set_up(node, request.param)
        load(node, request.param, archive)
        node.run([request.param, "network", "create", "warm"])
        for network in ("rack", "warm"):
            node.run([request.param, "run", "--rm", "--network", network, REDIS_IMAGE, "true"])
        node.run([request.param, "network", "rm", "warm"])
    return str(request.param)
