"""Fixtures for every kind of test."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import Rig
from tests.rig.rig import existing

# The name says whose rig it is: two test runs, or a test run and a developer, do not meet.
RIG_OF_A_RUN = re.compile(r"test-(\d+)(-.*)?")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses a rig is marked so, and stays with the tests of its file when several processes share the work.

    Each process has a rig of its own. Engines are set up in one of them only.
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
    """Whether a combination of parameters is one of the black squares, were the values the lines of a chessboard.

    `seen` holds the values that each parameter of each function has had so far.
    """
    numbers = []
    for name, value in item.callspec.params.items():
        values = seen[item.path, item.originalname, name]
        if repr(value) not in values:
            values.append(repr(value))
        numbers.append(values.index(repr(value)))
    return sum(numbers) % 2 == 1


def pytest_configure(config: pytest.Config) -> None:
    """Measure what the tests go through, if that is asked for (tests/covered.py)."""
    if config.getoption("--coverage"):
        from tests.covered import Controller, Worker

        is_worker = hasattr(config, "workerinput")
        if not is_worker and not config.getoption("numprocesses"):
            raise pytest.UsageError("--coverage needs --numprocesses: it measures worker processes")
        config.pluginmanager.register(Worker() if is_worker else Controller())


@pytest.fixture(scope="session")
def rig_name() -> str:
    """A name for this run's rig; rigs of a test's own are named after it. Earlier runs' rigs are removed."""
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


def pytest_addoption(parser: pytest.Parser) -> None:
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


@pytest.fixture
def moves(request: pytest.FixtureRequest) -> int:
    """How often a container is moved to and fro; more in a run of its own."""
    return int(request.config.getoption("--moves"))
