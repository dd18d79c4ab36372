"""Tests of migrate/files/container_image.py: which files of an image go together."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.errors import CommandFailed, EngineRefused
from checkpoint.files.rsync import PARTIAL, UNKNOWN, Ending, Rsync
from migrate.agent.plug_command import IMAGE
from migrate.files import container_image
from migrate.files.container_image import dealt, send_files, send_image
from migrate.files.trees import TRIES
from migrate.wire import protocol
from migrate.wire.failures import AgentFailed
from tests.unit.helpers.joined import Joined


class Tunnel:
    """A tunnel to another directory of this host."""

    def __init__(self, source: Path, target: Path) -> None:
        self.bridge = self
        self._joined = (source, target)

    def rsync(self, tree: int, key: str | None) -> Rsync:
        return Rsync(tree, Joined(*self._joined).carry)


#: An agent whose connection was never lost.
AGENT: Any = SimpleNamespace(renewed=0)


@pytest.mark.parametrize("sizes", [[], [3], [1, 2, 3, 4, 5]])
def test_all_files_arrive(tmp_path: Path, sizes: list[int]) -> None:
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    files(tmp_path / "source", sizes)
    move: Any = Tunnel(tmp_path / "source", tmp_path / "target")
    assert (send_files(AGENT, move, tmp_path / "source") > 0) is bool(sizes)
    assert sorted(path.stat().st_size for path in (tmp_path / "target").iterdir()) == sizes


class Frail:
    """A tunnel to another directory of this host, of which the first passes end with `statuses`.

    It is also the agent, whose connection is lost in each of these passes, and `back` says whether
    it is made anew. A pass that ends with PARTIAL has sent its files all the same.
    """

    def __init__(self, source: Path, target: Path, statuses: list[int], *, back: bool) -> None:
        self._joined = (source, target)
        self.statuses, self._back = statuses, back
        self.renewed = 0

    def rsync(self, tree: int, key: str | None) -> Rsync:
        def carry(words: Any, from_rsync: int, to_rsync: int, answered: Any) -> Ending:
            # Several passes run at once.
            status = self.statuses.pop() if self.statuses else 0
            if status == UNKNOWN:
                os.close(to_rsync)
                os.close(from_rsync)
            else:
                with contextlib.closing(Joined(*self._joined)) as joined:
                    joined.carry(words, from_rsync, to_rsync, answered)
            self.renewed += status != 0 and self._back
            return Ending(status=status, complaint="rsync: [receiver] failed" if status else "")

        return Rsync(tree, carry)

    def is_renewed(self, before: int) -> bool:
        return self.renewed != before


@pytest.mark.parametrize(
    ("statuses", "back", "well"),
    [
        ([UNKNOWN], True, True),
        ([UNKNOWN] * 6, True, True),
        ([UNKNOWN], False, False),
        ([PARTIAL] * (TRIES - 1), False, True),
        ([PARTIAL] * 20, False, False),
        ([PARTIAL] * 20, True, False),
    ],
)
def test_files_are_sent_again_if_the_connection_was_lost(
    tmp_path: Path, statuses: list[int], back: bool, well: bool
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    files(source, [1, 2, 3, 4, 5])
    move: Any = Frail(source, target, list(statuses), back=back)
    if well:
        assert send_files(move, move, source) > 0
        assert move.statuses == []
        assert sorted(path.stat().st_size for path in target.iterdir()) == [1, 2, 3, 4, 5]
    else:
        with pytest.raises(CommandFailed):
            send_files(move, move, source)


class Stuck:
    """A tunnel to a host that takes all and answers nothing."""

    renewed = 0

    def rsync(self, tree: int, key: str | None) -> Rsync:
        return Rsync(tree, self._carry)

    def _carry(self, words: object, from_rsync: int, to_rsync: int, answered: object) -> Ending:
        while os.read(from_rsync, 1 << 16):  # short result: the loop goes on
            pass
        os.close(to_rsync)
        os.close(from_rsync)
        return Ending(status=UNKNOWN, complaint="")


def test_nobody_waits_for_what_is_sent_after_ctrl_c(tmp_path: Path) -> None:
    files(tmp_path, [1, 2, 3, 4, 5])
    stuck: Any = Stuck()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            send_files(stuck, stuck, tmp_path)
    finally:
        signal.signal(signal.SIGALRM, before)


def files(directory: Path, sizes: list[int]) -> list[Path]:
    """Return new files of these sizes, which take no room on the disk."""
    paths = [directory / str(number) for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.touch()
        os.truncate(path, size)
    return paths


def totals(groups: list[list[Path]]) -> list[int]:
    return sorted(sum(file.stat().st_size for file in group) for group in groups)


@pytest.mark.parametrize(
    ("sizes", "shares", "expected"),
    [
        ([], 4, []),
        ([5], 4, [5]),
        ([0], 4, [0]),
        ([0, 0, 0], 2, [0, 0]),
        ([1, 2, 3], 1, [6]),
        ([1, 2, 3], 4, [1, 2, 3]),
        ([1, 1, 1, 1, 4], 2, [4, 4]),
        ([7, 7, 7, 7], 2, [14, 14]),
        ([1, 9 << 30, 2, 1], 2, [4, 9 << 30]),
    ],
)
def test_files_are_dealt_out_to_shares_of_these_sizes(
    tmp_path: Path, sizes: list[int], shares: int, expected: list[int]
) -> None:
    assert totals(dealt(files(tmp_path, sizes), shares)) == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 1 << 20), max_size=20), st.integers(1, 5))
def test_each_file_once_in_groups_of_about_the_same_size(sizes: list[int], shares: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        paths = files(Path(name), sizes)
        groups = dealt(iter(paths), shares)
        assert sorted(file for group in groups for file in group) == sorted(paths)
        assert all(groups)
        assert len(groups) == min(shares, len(sizes))
        if groups:
            found = totals(groups)
            assert found[-1] - found[0] <= max(sizes)


LAYERS = {"1a": 10, "2b": 20_000, "manifest.json": 7}


class Engine:
    """An engine that writes out an image of three files, without those that are there."""

    def __init__(self, outgoing: Path) -> None:
        self._outgoing = outgoing
        self.refuses = False

    def export_image(self, container: Any, there: frozenset[str], directory: Path) -> None:
        assert directory.parent == self._outgoing
        assert stat.S_IMODE(self._outgoing.stat().st_mode) == 0o700
        if self.refuses:
            raise EngineRefused("no space left")
        for name, size in LAYERS.items():
            if name not in there:
                (directory / name).write_bytes(bytes(size))


class Agent:
    """The target's agent, which keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.failure: Exception | None = None
        self.renewed = 0

    def request(self, message: Any, *, timeout_s: float) -> None:
        self.asked.append(message)
        if self.failure is not None:
            raise self.failure


class Straight:
    """A tunnel that leads to a directory of this host."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.keys: list[str | None] = []

    def rsync(self, tree: int, key: str | None) -> Rsync:
        self.keys.append(key)
        return Rsync(tree, Joined(self._target, self._target).carry)


@pytest.fixture
def outgoing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the directory in which images are written out. No test may leave anything in it."""
    path = tmp_path / "state/outgoing"
    monkeypatch.setattr(container_image, "OUTGOING_IMAGES", path)
    yield path
    assert list(path.iterdir()) == []


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def sent(engine: Engine, agent: Agent, target: Path, *there: str) -> int:
    container: Any = SimpleNamespace(engine_state={"Image": f"sha256:{'ff' * 32}"})
    tunnel: Any = Straight(target)
    parts: Any = (engine, container, frozenset(there), agent, tunnel)
    count = send_image(*parts)
    assert tunnel.keys == [IMAGE]
    return count


def test_an_image_arrives_without_the_layers_that_are_there(outgoing: Path, target: Path) -> None:
    agent = Agent()
    assert sent(Engine(outgoing), agent, target, "1a") > 20_000
    sizes = {path.name: path.stat().st_size for path in target.iterdir()}
    assert sizes == {"2b": 20_000, "manifest.json": 7}
    assert agent.asked == [
        protocol.AwaitContainerImage(key="ff" * 32),
        protocol.LoadContainerImage(),
    ]


def test_an_engine_that_cannot_write_the_image_is_an_error(outgoing: Path, target: Path) -> None:
    engine, agent = Engine(outgoing), Agent()
    engine.refuses = True
    with pytest.raises(EngineRefused, match="no space left"):
        sent(engine, agent, target)
    assert agent.asked == []


def test_an_agent_that_refuses_the_image_gets_none_of_it(outgoing: Path, target: Path) -> None:
    agent = Agent()
    agent.failure = AgentFailed("EngineRefused", "no such image", ())
    with pytest.raises(AgentFailed):
        sent(Engine(outgoing), agent, target)
    assert list(target.iterdir()) == []
