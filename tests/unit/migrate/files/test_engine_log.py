"""migrate/files/engine_log.py, copy(): the engine's log in whole lines."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from migrate.agent.client import AgentClient
from migrate.files import engine_log
from migrate.files.engine_log import OutputSync
from migrate.wire import protocol
from migrate.wire.protocol import Message


class Agent:
    """Keeps what is streamed to it."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def stream(self, message: Message, parts: Sequence[bytes | memoryview] = ()) -> None:
        assert message == protocol.Output()
        self.pieces.append(b"".join(parts))

    def take(self) -> bytes:
        """What came since the last time."""
        taken = b"".join(self.pieces)
        self.pieces.clear()
        return taken


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "ctr.log"
    path.touch()
    return path


def output(agent: Agent, log: Path) -> contextlib.closing[OutputSync]:
    return contextlib.closing(OutputSync(cast(AgentClient, agent), log))


def append(log: Path, text: bytes) -> None:
    with log.open("ab") as file:
        file.write(text)


def test_everything_at_first_then_what_was_added(agent: Agent, log: Path) -> None:
    append(log, b"1\n22\n")
    with output(agent, log) as sync:
        assert (sync.copy(), agent.take()) == (5, b"1\n22\n")
        assert (sync.copy(), agent.pieces) == (0, [])
        append(log, b"3\n")
        append(log, b"\xff\0\n")
        assert (sync.copy(), agent.take()) == (5, b"3\n\xff\0\n")


def test_a_line_that_is_being_written_comes_when_it_is_whole(agent: Agent, log: Path) -> None:
    append(log, b"one\nt")
    with output(agent, log) as sync:
        assert (sync.copy(), agent.take()) == (4, b"one\n")
        append(log, b"w")
        assert (sync.copy(), agent.pieces) == (0, [])
        append(log, b"o\nthree\nfo")
        assert (sync.copy(), agent.take()) == (10, b"two\nthree\n")


def test_an_empty_log(agent: Agent, log: Path) -> None:
    with output(agent, log) as sync:
        assert (sync.copy(), agent.pieces) == (0, [])


def test_in_pieces_of_whole_lines(agent: Agent, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_log, "PIECE_BYTES", 16)
    lines = [b"line %d\n" % number for number in range(40)] + [b"x" * 100 + b"\n"]
    append(log, b"".join(lines) + b"not yet")
    with output(agent, log) as sync:
        assert sync.copy() == sum(map(len, lines))
    assert len(agent.pieces) > 10
    assert all(piece.endswith(b"\n") for piece in agent.pieces)
    assert agent.take() == b"".join(lines)


def test_the_end_of_a_long_log(agent: Agent, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_log, "MOST_OUTPUT_BYTES", 20)
    append(log, b"".join(b"line %d\n" % number for number in range(9)))
    with output(agent, log) as sync:
        assert (sync.copy(), agent.take()) == (14, b"line 7\nline 8\n")
        append(log, b"line 9, and no longer than that\n")
        sync.copy()
    assert agent.take() == b"line 9, and no longer than that\n"


def test_a_log_that_is_just_not_too_long(
    agent: Agent, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(log, b"0123\n5678\n")
    monkeypatch.setattr(engine_log, "MOST_OUTPUT_BYTES", 10)
    with output(agent, log) as sync:
        sync.copy()
    assert agent.take() == b"0123\n5678\n"


def test_no_log(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        output(agent, tmp_path / "none")


def test_a_line_that_does_not_end_is_left_out_and_not_kept(
    agent: Agent, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_log, "MOST_LINE_BYTES", 1 << 19)
    append(log, b"before\n")
    with output(agent, log) as sync:
        tracemalloc.start()
        for _ in range(64):
            append(log, bytes(1 << 20))
            sync.copy()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()
        assert agent.take() == b"before\n"
        append(log, b"the end of it\nafter\n")
        sync.copy()
    assert agent.take() == b"after\n"
