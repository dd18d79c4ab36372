"""Fixtures for every kind of test, and the options of scripts/test."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import Container, Rig
from tests.rig.engine import load, set_up
from tests.rig.hosts import Hosts
from tests.rig.rig import existing
from tests.rig.services import REDIS_IMAGE, write_redis
from tests.rig.workload import Redis, start_redis

# The name says whose rig it is: two test runs, or a test run and a developer, do not meet.
RIG_OF_A_RUN = re.compile(r"test-(\d+)(-.*)?")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that make a test larger or repeat it, and those of a whole run."""
    parser.addoption(
        "--coverage",
        action="store_true",
        help="fail if unit and contract tests go through too little of the product",
    )
    parser.addoption("--vm", action="store_true", help="the nodes are virtual machines: slow")
    parser.addoption(
        "--gib", type=float, default=0.03, help="memory of each kind in tests of large memory"
    )
    parser.addoption(
        "--workers",
        type=int,
        default=60,
        help="processes of the server that forks before it serves",
    )
    parser.addoption(
        "--places", type=int, default=2, help="wrong bytes, of each kind, in the test of the proof"
    )
    parser.addoption(
        "--files", type=int, default=30_000, help="files of the rootfs in the test of many"
    )
    parser.addoption(
        "--moves", type=int, default=2, help="moves of the workload that verifies its memory"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Measure what the tests go through, if that is asked for (tests/covered.py)."""
    if config.getoption("--coverage"):
        from tests.covered import Controller, Worker

        is_worker = hasattr(config, "workerinput")
        if not is_worker and not config.getoption("numprocesses"):
            raise pytest.UsageError("--coverage needs --numprocesses: it measures worker processes")
        config.pluginmanager.register(Worker() if is_worker else Controller())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses a rig, and say which tests stay together when processes share the work.

    Each process has a rig of its own. The tests of a file stay together, and so do all tests of
    one engine, which is then set up in one rig only.
    """
    seen: defaultdict[tuple[Path, str, str], list[str]] = defaultdict(list)
    for item in items:
        if (
            item.get_closest_marker("checkered")
            and isinstance(item, pytest.Function)
            and _is_black(item, seen)
        ):
            item.add_marker("thorough")
        fixtures = set(getattr(item, "fixturenames", ()))
        if {"rig", "rig_name"} & fixtures:
            item.add_marker("rig")
            item.add_marker(
                pytest.mark.xdist_group("engines" if "engine" in fixtures else item.path.stem)
            )


def _is_black(item: pytest.Function, seen: defaultdict[tuple[Path, str, str], list[str]]) -> bool:
    """Return whether a combination of parameters is a black square of a chessboard.

    The values of each parameter number the board's lines. `seen` holds the values that each
    parameter of each function has had so far.
    """
    numbers = []
    for name, value in item.callspec.params.items():
        values = seen[item.path, item.originalname, name]
        if repr(value) not in values:
            values.append(repr(value))
        numbers.append(values.index(repr(value)))
    return sum(numbers) % 2 == 1


@pytest.fixture(scope="session")
def rig_name() -> str:
    """A name for this run's rig, with which names of a test's own rigs begin.

    Rigs that earlier runs have left are removed.
    """
    for name in existing():
        owner = RIG_OF_A_RUN.fullmatch(name)
        if owner and not Path("/proc", owner[1]).exists():
            Rig(name).down()
    return f"test-{os.getpid()}"


@pytest.fixture(scope="session")
def rig(rig_name: str, request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Two nodes, alpha and beta, for the whole run."""
    rig = Rig(rig_name)
    rig.up(nodes=2, vm=request.config.getoption("--vm"))
    yield rig
    rig.down()


@pytest.fixture
def hosts(rig: Rig) -> Iterator[Hosts]:
    """alpha and beta, on which a test may leave containers of runc's and nothing else.

    What else is left behind is the tool's fault, and fails the test.
    """
    both = Hosts.of(rig)
    before = both.traces()
    yield both
    for node in both.both:
        for name in node.run(["runc", "list", "--quiet"], check=False).stdout.split():
            Container(node=node, name=name, address="").remove()
        node.run(["sh", "-c", "rm -rf --one-file-system /srv/containers/*"])
    assert both.settled(before) == {}


@pytest.fixture
def redis(hosts: Hosts) -> Redis[Container]:
    """redis in a container of runc's on alpha."""
    return start_redis(hosts.alpha)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of an image with redis."""
    path = tmp_path_factory.mktemp("image") / "redis.tar"
    write_redis(path)
    return path


@pytest.fixture(scope="session", params=["podman", "docker"])
def engine(rig: Rig, archive: Path, request: pytest.FixtureRequest) -> str:
    """podman, and then docker: an engine that works on both hosts and has the image with redis.

    It has run a container on each of its networks: what an engine leaves for ever is there.
    """
    engine = str(request.param)
    for node in rig.nodes:
        set_up(node, engine)
        load(node, engine, archive)
        node.run([engine, "network", "create", "warm"])
        for network in ("rack", "warm"):
            node.run([engine, "run", "--rm", "--network", network, REDIS_IMAGE, "true"])
        node.run([engine, "network", "rm", "warm"])
    return engine


@pytest.fixture
def moves(request: pytest.FixtureRequest) -> int:
    """The number of moves to and fro, which is greater in a run of its own."""
    return int(request.config.getoption("--moves"))
