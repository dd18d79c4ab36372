"""Tests of migrate/phases/cleanup.py: what fails after the resume is told, and the rest is done."""

from __future__ import annotations

from typing import Any

import pytest

from checkpoint.errors import CommandFailed, EngineRefused
from migrate.decisions.state import State
from migrate.errors import LeftBehind
from migrate.wire.failures import AgentFailed, AgentGone
from migrate.wire.message import ProtocolError
from tests.unit.migrate.phases.held_move import FINISHED, RESUMED, ended, failing, held_migration


@pytest.mark.parametrize(
    ("answers", "parts", "words"),
    [
        ([AgentGone("it broke", "", None)], {}, "it broke"),
        ([AgentFailed("OSError", "umount: busy", [])], {}, "the target failed: umount: busy"),
        ([ProtocolError("Finished.waits: not four")], {}, "Finished.waits: not four"),
        (
            [FINISHED],
            {"target__clock__to_ours": failing(TypeError("no number"))},
            "TypeError: no number",
        ),
        ([FINISHED], {"dump__bury": failing(KeyError("x"))}, "KeyError"),
        (
            [FINISHED],
            {
                "undo__settle": failing(EngineRefused("docker: already in progress")),
            },
            "already in progress",
        ),
        (
            [FINISHED],
            {"undo__settle": failing(CommandFailed(["podman"], 125, "no"))},
            "podman ended with status 125",
        ),
    ],
)
def test_what_fails_afterwards_is_left_behind_and_the_rest_is_done(
    answers: list[Any], parts: dict[str, Any], words: str
) -> None:
    move, done = held_migration(RESUMED, *answers, **parts)
    error = ended(move)
    assert isinstance(error, LeftBehind)
    assert words in error.what
    assert error.where == "the container runs on beta"
    rest = {"bury", "tidy", "settle"} - {name.rpartition("__")[2] for name in parts}
    assert rest <= set(done)
    assert move.state is State.RESUMED


def test_a_tidy_up_that_fails_keeps_no_other_step_from_being_done() -> None:
    move, done = held_migration(RESUMED, FINISHED)
    move.tidy.callback(failing(CommandFailed(["umount"], 32, "busy")))
    error = ended(move)
    assert isinstance(error, LeftBehind)
    assert error.cause_kind == "CommandFailed"
    assert done[-2:] == ["tidy", "settle"]
