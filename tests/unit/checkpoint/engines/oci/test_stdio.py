"""Tests of checkpoint/engines/oci/stdio.py, with real processes at the other ends of streams."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.engines.oci import stdio
from checkpoint.host import run
from checkpoint.host.ready import ready
from tests.rig import until

Streams = tuple[int, int, int]


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stdio, "LOG_DIRECTORY", tmp_path / "logs/of/containers")
    return tmp_path / "logs/of/containers"


@pytest.fixture
def streams(
    logs: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Streams]:
    """Yield the streams of a container with such descriptors. Their processes end with them."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any, **options: Any) -> None:
        started.append(run.start(*arguments, **options))

    monkeypatch.setattr(stdio, "start", start)
    before = set(os.listdir("/proc/self/fd"))
    found = stdio.rebuild("box", request.param)
    assert len(set(os.listdir("/proc/self/fd")) - before) == 3, "nothing else is left open"
    yield found
    for fd in found:
        os.close(fd)
    assert [process.wait(20) for process in started] == [0] * len(started)


def leads_to(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("streams", [["/dev/null", "/a/file", "socket:[7]"], []], indirect=True)
def test_what_was_no_pipe_leads_nowhere(streams: Streams, logs: Path) -> None:
    assert [leads_to(fd) for fd in streams] == ["/dev/null"] * 3
    assert not logs.exists()


@pytest.mark.parametrize("streams", [["/dev/null", "pipe:[1]", "pipe:[2]"]], indirect=True)
def test_two_pipes_go_to_one_log(streams: Streams, logs: Path) -> None:
    """The log and its directory are for root alone."""
    assert os.fstat(streams[1]).st_ino != os.fstat(streams[2]).st_ino
    os.write(streams[1], b"out\n")
    until(lambda: (logs / "box.log").exists(), "its log")
    until(lambda: (logs / "box.log").read_bytes() == b"out\n", "its output")
    os.write(streams[2], b"err\n")
    until(lambda: (logs / "box.log").read_bytes() == b"out\nerr\n", "both of its streams")
    assert stat.S_IMODE((logs / "box.log").stat().st_mode) == 0o600
    assert stat.S_IMODE(logs.stat().st_mode) == 0o700


@pytest.mark.parametrize("streams", [["/dev/null", "pipe:[1]", "pipe:[1]"]], indirect=True)
def test_streams_that_shared_a_pipe_share_one_again(streams: Streams, logs: Path) -> None:
    assert os.fstat(streams[1]).st_ino == os.fstat(streams[2]).st_ino
    for number in (1, 2, 1):
        os.write(streams[number], b"%d" % number)
    until(lambda: (logs / "box.log").exists(), "its log")
    until(lambda: (logs / "box.log").read_bytes() == b"121", "its output, in order")


@pytest.mark.parametrize("streams", [["pipe:[1]", "/dev/null", "/dev/null"]], indirect=True)
def test_an_input_stays_open(streams: Streams) -> None:
    """A program that reads its standard input must not find the end of it."""
    assert stat.S_ISFIFO(os.fstat(streams[0]).st_mode)
    assert not ready(streams[0], timeout_s=0.3)
