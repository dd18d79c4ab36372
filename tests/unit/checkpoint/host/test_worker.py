"""Tests of checkpoint/host/worker.py: threads whose results and failures are not lost."""

from __future__ import annotations

import threading

import pytest

from checkpoint.host.worker import Worker


def test_the_result_is_that_of_the_function() -> None:
    assert Worker("sum", lambda: 1 + 1).result() == 2


def test_a_failure_is_raised_where_the_result_is_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise KeyError("lost")

    with caplog.at_level("DEBUG", logger="checkpoint"):
        worker = Worker("failing", fail)
        assert worker.wait(10)
    assert isinstance(worker.failure, KeyError)
    assert "thread failing failed" in caplog.text
    with pytest.raises(KeyError, match="lost"):
        worker.result()


def test_a_wait_that_is_too_short_says_so() -> None:
    go = threading.Event()
    worker = Worker("waiting", go.wait)
    assert not worker.wait(0)
    go.set()
    assert worker.wait(10)
