"""migrate/files/engine_log.py: the rest of a log, once the engine has read what the container has printed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrate.files import engine_log
from migrate.files.engine_log import OutputSync


@pytest.fixture
def printing() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that stands for a frozen container, with the reading end of what it prints."""
    reader, writer = os.pipe()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=writer) as process:
        os.close(writer)
        yield process, reader
        os.close(reader)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log").touch()
    return tmp_path / "log"


def put(process: subprocess.Popen[bytes], reader: int, text: bytes) -> None:
    """Have the process print something, and wait until it is in the pipe."""
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()
    while engine_log._waiting(process.pid, 1) < len(text):
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
        """It writes what it has read first, so that nothing is between the pipe and the log."""
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
