"""Tests of checkpoint/criu/predump.py, with programs in CRIU's place that do not do its work."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.criu import predump, rpc
from checkpoint.criu.predump import PreDump, PreDumps
from checkpoint.errors import ConversationLost, CriuFailed

#: A limit, in seconds, that only a failure reaches.
LIMIT_S = 20.0


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], PreDump]:
    """Return the function that begins a pre-dump by a shell script.

    Descriptor $2 is the script's end of the socket.
    """
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(predump, "END_TIMEOUT_S", 0.2)

    def begin(script: str) -> PreDump:
        (tmp_path / "criu").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "criu").chmod(0o755)
        return PreDumps(rpc.request("DUMP").opts, tmp_path).begin()

    return begin


def test_a_pre_dump_that_does_nothing_is_not_waited_for_for_ever(
    begun: Callable[[str], PreDump],
) -> None:
    hung = begun("exec sleep 1000")
    hung.ask()
    with pytest.raises(ConversationLost, match=r"did not go on for 0\.1 s"):
        hung.wait(0.1, lambda: 7)
    hung.close()


def test_a_pre_dump_that_still_sends_is_waited_for(begun: Callable[[str], PreDump]) -> None:
    slow = begun("sleep 1")
    slow.ask()
    with pytest.raises(CriuFailed):
        slow.wait(0.1, itertools.count().__next__)
    slow.close()


def test_a_pre_dump_that_ends_without_an_answer_has_failed(begun: Callable[[str], PreDump]) -> None:
    ended = begun("exit 1")
    with pytest.raises(CriuFailed, match="pre-dump"):
        ended.wait(LIMIT_S, lambda: 0)
    ended.close()
