"""Tests of tests/workloads/redis_client.py: it counts, and notices a broken promise of redis."""

import json
import signal
import threading
import time

import pytest

from tests.unit.tests.workloads.running import LIMIT_S, read_line, running, tell
from tests.workloads.fake_redis import fake_redis


def test_client_counts_and_gives_a_window_its_worst_gap() -> None:
    gate = threading.Event()
    gate.set()
    blocked = threading.Event()

    def on_incr(value: int) -> bytes:
        if not gate.is_set():
            blocked.set()
            gate.wait(LIMIT_S)
        return b":%d\r\n" % value

    with (
        fake_redis(on_incr) as server,
        running("redis_client.py", "127.0.0.1", str(server.port)) as process,
    ):
        deadline = time.monotonic() + LIMIT_S
        while tell(process, "MARK warm")["last"] is None:
            assert time.monotonic() < deadline
        gate.clear()
        assert blocked.wait(LIMIT_S)
        before = tell(process, "MARK frozen")
        time.sleep(0.3 + before["worst_gap_ms"] / 1000)  # the gap that is to be seen
        during = tell(process, "MARK thawing")
        assert during["count"] == 0
        assert during["worst_gap_ms"] >= 300 + before["worst_gap_ms"]
        gate.set()
        output, _ = process.communicate(timeout=LIMIT_S)  # the end of stdin ends it
    summary = json.loads(output)
    assert summary["error"] is None
    assert summary["contiguous"]
    assert summary["first"] == 1
    assert summary["last"] == summary["count"]
    assert summary["worst_gap_ms"] >= during["worst_gap_ms"]
    worst = max(summary["gaps"], key=lambda gap: gap["ms"])
    assert worst["ms"] == summary["worst_gap_ms"]
    assert abs(time.time_ns() - worst["start_unix_ns"]) < 60e9
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("late_reply", "error", "contiguous"),
    [
        (b":22\r\n", "21 was due, 22 came", False),
        (b":20\r\n", "21 was due, 20 came", False),
        (None, "closed the connection", True),
        (b"-ERR no\r\n", "unexpected reply", True),
        (b":21\r\n:22\r\n", "unexpected reply", True),
        (b"", "no reply for", True),
    ],
)
def test_client_reports_a_broken_promise(
    late_reply: bytes | None, error: str, contiguous: bool
) -> None:
    limits = ("--seconds", "1", "--reply-timeout-s", "0.5")
    with (
        fake_redis(lambda value: late_reply if value == 21 else b":%d\r\n" % value) as server,
        running("redis_client.py", "127.0.0.1", str(server.port), *limits) as process,
    ):
        summary = json.loads(read_line(process.stdout))
        assert process.wait(LIMIT_S) == 1
    assert error in summary["error"]
    assert summary["contiguous"] is contiguous
    assert summary["count"] >= 20


def test_client_ends_on_sigterm() -> None:
    with (
        fake_redis() as server,
        running("redis_client.py", "127.0.0.1", str(server.port)) as process,
    ):
        tell(process, "MARK up")  # the client has its handler from now on
        process.send_signal(signal.SIGTERM)
        assert json.loads(read_line(process.stdout))["error"] is None
        assert process.wait(LIMIT_S) == 0
