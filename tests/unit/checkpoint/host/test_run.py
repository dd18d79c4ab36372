"""Tests of checkpoint/host/run.py: what the log says of a program that was run."""

from __future__ import annotations

import pytest

from checkpoint.host.run import MOST_SHOWN, run, start

#: A program as text, which is longer than anybody wants to read in a log.
PROGRAM = "# " + "x" * 10_000


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("DEBUG", logger="checkpoint")
    return caplog


def test_a_program_that_was_run_is_logged_with_its_status(logged: pytest.LogCaptureFixture) -> None:
    run(["true", "a word"])
    assert "ran ('true', 'a word'): status 0" in logged.text


def test_a_program_as_text_is_logged_by_its_beginning(logged: pytest.LogCaptureFixture) -> None:
    run(["sh", "-c", PROGRAM])
    start(["sh", "-c", PROGRAM]).wait(20)
    assert logged.text.count(PROGRAM[:MOST_SHOWN]) == 2
    assert PROGRAM[: MOST_SHOWN + 1] not in logged.text
