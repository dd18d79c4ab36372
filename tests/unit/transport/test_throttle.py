"""Tests of transport/throttle.py, on a clock of the test's own."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.throttle import AHEAD_S, RateLimit


class Clock:
    """A clock whose time passes when it is asked to sleep."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@given(st.integers(1000, 10**10), st.lists(st.integers(1, 1 << 20), min_size=1, max_size=200))
def test_never_faster_than_the_rate_and_hardly_slower(rate: int, sizes: list[int]) -> None:
    clock = Clock()
    limit = RateLimit(rate, clock=clock, sleep=clock.sleep)
    for size in sizes:
        limit.take(size)
    took, due = clock.now - 1000.0, sum(sizes) / rate
    assert took == pytest.approx(max(0.0, due - AHEAD_S), abs=1e-6)
    assert limit.held_us == pytest.approx(took * 1e6, abs=len(sizes) + 1)


def test_idle_time_is_no_credit() -> None:
    clock = Clock()
    limit = RateLimit(1000, clock=clock, sleep=clock.sleep)
    clock.now += 3600
    started = clock.now
    limit.take(5000)
    assert clock.now - started == pytest.approx(5 - AHEAD_S)


def test_without_a_limit_no_time_passes() -> None:
    clock = Clock()
    limit = RateLimit(None, clock=clock, sleep=clock.sleep)
    limit.take(1 << 40)
    assert (clock.now, limit.held_us) == (1000.0, 0)


def test_a_limit_that_is_lifted_lets_waiters_go() -> None:
    limit = RateLimit(1)
    waiting = threading.Thread(target=limit.take, args=(3600,))
    waiting.start()
    limit.lift()
    waiting.join(10)
    assert not waiting.is_alive()
    assert limit.held_us < 3600e6 / 2, "it did not wait for so long"
    limit.take(3600)
