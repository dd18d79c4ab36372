"""Tests of migrate/files/engine_log.py: the engine's log is copied in whole lines."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from migrate.agent.client import AgentClient
from migrate.files import engine_log
from migrate.files.engine_log import OutputSync
from migrate.wire import protocol
from migrate.wire.protocol import Message


class Agent:
    """A fake of the agent's client, which keeps what is streamed."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def stream(self, message: Message, parts: Sequence[bytes | memoryview] = ()) -> None:
        assert message == protocol.Output()
        self.pieces.append(b"".join(parts))

    def take(self) -> bytes:
        """Return what came since the last call."""
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


def test_all_lines_are_copied_at_first_and_then_those_that_were_added(
    agent: Agent, log: Path
) -> None:
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


def test_of_an_empty_log_nothing_is_sent(agent: Agent, log: Path) -> None:
    with output(agent, log) as sync:
        assert (sync.copy(), agent.pieces) == (0, [])


def test_a_long_log_goes_in_pieces_of_whole_lines(
    agent: Agent, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_log, "PIECE_BYTES", 16)
    lines = [b"line %d\n" % number for number in range(40)] + [b"x" * 100 + b"\n"]
    append(log, b"".join(lines) + b"not yet")
    with output(agent, log) as sync:
        assert sync.copy() == sum(map(len, lines))
    assert len(agent.pieces) > 10
    assert all(piece.endswith(b"\n") for piece in agent.pieces)
    assert agent.take() == b"".join(lines)


def test_of_a_log_over_the_bound_the_last_whole_lines_are_copied(
    agent: Agent, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_log, "MOST_OUTPUT_BYTES", 20)
    append(log, b"".join(b"line %d\n" % number for number in range(9)))
    with output(agent, log) as sync:
        assert (sync.copy(), agent.take()) == (14, b"line 7\nline 8\n")
        append(log, b"line 9, and no longer than that\n")
        sync.copy()
    assert agent.take() == b"line 9, and no longer than that\n"


def test_a_log_of_just_the_bound_is_copied_whole(
    agent: Agent, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(log, b"0123\n5678\n")
    monkeypatch.setattr(engine_log, "MOST_OUTPUT_BYTES", 10)
    with output(agent, log) as sync:
        sync.copy()
    assert agent.take() == b"0123\n5678\n"


def test_a_log_that_is_not_there_is_an_error(agent: Agent, tmp_path: Path) -> None:
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


@pytest.fixture
def printing() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Yield a process that stands for a frozen container, and the other end of its output."""
    reader, writer = os.pipe()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=writer) as process:
        os.close(writer)
        yield process, reader
        os.close(reader)


def put(process: subprocess.Popen[bytes], reader: int, text: bytes) -> None:
    """Have the process print some text, and wait until the text is in the pipe."""
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()
    while engine_log.waiting_bytes(process.pid, 1) < len(text):
        time.sleep(0.001)


def rest(log: Path, init: int) -> bytes:
    sent: list[bytes] = []
    agent: Any = SimpleNamespace(stream=lambda message, parts: sent.extend(parts))
    with contextlib.closing(OutputSync(agent, log)) as output:
        assert output.copy_rest(init) == len(b"".join(sent))
    return b"".join(sent)


def test_what_the_engine_reads_late_comes_too(
    printing: tuple[subprocess.Popen[bytes], int], log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_log, "DRAIN_S", 20.0)
    process, reader = printing
    put(process, reader, b"last words\n")

    def engine() -> None:
        """Log the words before they are read, so that they are always in the pipe or in the log."""
        time.sleep(0.1)
        log.write_bytes(b"last words\n")
        os.read(reader, 100)

    thread = threading.Thread(target=engine)
    thread.start()
    assert rest(log, process.pid) == b"last words\n"
    thread.join()


def test_an_engine_that_does_not_read_is_not_waited_for(
    printing: tuple[subprocess.Popen[bytes], int], log: Path
) -> None:
    process, reader = printing
    put(process, reader, b"last words\n")
    log.write_bytes(b"before\n")
    assert rest(log, process.pid) == b"before\n"


def test_output_that_is_no_pipe_is_not_waited_for(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_log, "DRAIN_S", 20.0)
    log.write_bytes(b"all\n")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        began = time.monotonic()
        assert rest(log, process.pid) == b"all\n"
        assert rest(log, 1 << 30) == b"all\n", "nor one of a process that is gone"
        assert time.monotonic() - began < 10
        process.communicate()
