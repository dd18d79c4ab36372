"""Tests of checkpoint/engines/starters.py: the units that start a container again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.engines import starters
from checkpoint.host import proc, systemd
from tests.rig import until

ID = "1f2e" * 16


def container(conmon: int | None = None) -> Any:
    state = {} if conmon is None else {"State": {"ConmonPid": conmon}}
    return SimpleNamespace(name="web", id=ID, engine_state=state)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the processes that systemd is asked of, none of which is a unit's."""
    pids: list[int] = []
    monkeypatch.setattr(systemd, "restarting_unit", lambda pid: pids.append(pid))
    return pids


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def started(stack: ExitStack, directory: Path, program: str, *words: str) -> int:
    """Start a process with these words, and return its pid."""
    argv = [str(directory / program), *words]
    process = subprocess.Popen(argv, executable="/bin/sh", stdin=subprocess.PIPE)
    stack.enter_context(process)
    stack.callback(process.kill)
    until(lambda: proc.read(process.pid, "cmdline"), "its words, at the end of its execve")
    return process.pid


READS = ("-c", "read line; true")


@pytest.mark.parametrize(
    ("program", "words", "is_one"),
    [
        ("docker", ("run", "--rm", "--name", "web", "nginx"), True),
        ("docker", ("run", "--name=web", "nginx"), True),
        ("docker", ("start", "-a", "web"), True),
        ("podman", ("start", "--attach", ID[:12]), True),
        ("runc", ("--root", "/run/runc", "run", "web"), True),
        ("crun", ("run", ID), True),
        ("docker", ("run", "--name", "cache", "web", "web"), False),
        ("docker", ("run", "--link", "web", "cache"), False),
        ("docker", ("wait", "web"), False),
        ("runc", ("--root", "web", "run", "cache"), False),
        ("docker", ("logs", "-f", "web"), False),
        ("docker", ("exec", "web", "sh"), False),
        ("docker", ("run", "--name", "webshop", "nginx"), False),
        ("docker", ("start", ID[:11]), False),
        ("dockerd", ("start", "web"), False),
        ("sh", ("start", "web"), False),
    ],
)
def test_a_command_that_stays_with_the_container_is_a_starter(
    asked: list[int],
    stack: ExitStack,
    tmp_path: Path,
    program: str,
    words: tuple[str, ...],
    is_one: bool,
) -> None:
    pid = started(stack, tmp_path, program, *READS, *words)
    assert starters.restarting_unit(container()) is None
    assert (pid in asked) == is_one


def test_podmans_conmon_is_a_starter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "restarting_unit", {77: "container-web.service"}.get)
    assert starters.restarting_unit(container(conmon=77)) == "container-web.service"
    assert starters.restarting_unit(container()) is None


def test_a_process_that_has_ended_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert starters.restarting_unit(container(conmon=1 << 22)) is None
