"""Tests of migrate/phases/arm.py: the end of an engine's checkpoint, and a container's log."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.criu.edits import Edits
from checkpoint.criu.roles import DumpRole
from checkpoint.errors import ConversationLost
from migrate.phases import arm

LIMIT_S = 20.0


@pytest.fixture
def dump() -> Iterator[DumpRole]:
    dump = DumpRole(Edits(nftables=False, one_cgroup=False))
    yield dump
    dump.close()


def started(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sh", "-c", script], stderr=subprocess.PIPE)


def test_the_end_of_a_checkpoint_ends_every_wait_for_it(dump: DumpRole) -> None:
    with started("exit 3") as checkpoint:
        arm.watch(checkpoint, dump)
        with pytest.raises(ConversationLost, match="checkpoint ended with status 3"):
            dump.request_gate.wait_reached(LIMIT_S)


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("exec sleep 100", -9)])
def test_no_checkpoint_outlives_the_move(dump: DumpRole, script: str, status: int) -> None:
    """A checkpoint that hangs is killed, after what it waits for was refused."""
    checkpoint = started(script)
    arm.reap(checkpoint, dump, LIMIT_S if status > 0 else 0.1)
    assert checkpoint.returncode == status
    assert checkpoint.stderr is not None
    assert checkpoint.stderr.closed
    assert not dump.request_gate.arrive()


class Move:
    """The parts of a migration that copy a container's log."""

    def __init__(self, log: Path | None) -> None:
        self.notes: list[str] = []
        self.note = self.notes.append
        self.sent: list[bytes] = []
        self.counted: dict[str, int] = {}
        agent = SimpleNamespace(stream=lambda message, parts: self.sent.extend(parts))
        self.source = SimpleNamespace(container=SimpleNamespace(log=log))
        self.target = SimpleNamespace(agent=agent)
        self.report = SimpleNamespace(add_bytes=self.counted.__setitem__)
        self.tidy = contextlib.ExitStack()


def test_a_log_is_copied_and_stays_open_for_the_rest(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"one\ntwo\nthr")
    move: Any = Move(tmp_path / "log")
    output = arm.copy_output(move)
    assert output is not None
    assert b"".join(move.sent) == b"one\ntwo\n"
    assert move.counted == {"output": 8}
    with (tmp_path / "log").open("ab") as log:
        log.write(b"ee\n")
    assert output.copy() == 6
    move.tidy.close()
    with pytest.raises(ValueError, match="closed"):
        output.copy()


@pytest.mark.parametrize("there", [False, True])
def test_without_a_log_that_can_be_read_the_move_goes_on(tmp_path: Path, there: bool) -> None:
    move: Any = Move(tmp_path / "none" if there else None)
    assert arm.copy_output(move) is None
    assert [note.startswith("the container's log cannot be read") for note in move.notes] == (
        [True] if there else []
    )
