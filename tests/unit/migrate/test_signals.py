"""Tests of migrate/signals.py, by real signals to this process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from migrate.errors import FrozenTooLong, Interrupted
from migrate.signals import INTERRUPTING, Signals


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Have the signals heard, some of which may be ignored here.

    nohup(1) and a shell's `&` start programs so.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in INTERRUPTING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_that_was_ignored_still_is() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_the_block(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as raised, Signals() as signals, signals.heard():
        os.kill(os.getpid(), number)
    assert raised.value.signal_number == number
    assert signal.getsignal(number) is before


def test_signals_are_heard_inside_the_block_only() -> None:
    with Signals() as signals:
        with signals.heard():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM


def test_a_signal_that_came_before_the_block_interrupts_it() -> None:
    went_on = False
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted), signals.heard():
            went_on = True
    assert not went_on


def test_a_second_signal_does_not_interrupt_what_the_first_one_made_necessary() -> None:
    """The clean-up may be inside the block, as that of the preflight is."""
    cleaned = False
    with Signals() as signals, pytest.raises(Interrupted), signals.heard():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            cleaned = True
    assert cleaned


def now() -> tuple[object, tuple[float, float]]:
    """Return what this process does about SIGALRM, and the time until one comes."""
    return signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)


def test_a_block_that_takes_too_long_is_ended() -> None:
    before, went_on = now(), False
    with (
        Signals() as signals,
        pytest.raises(FrozenTooLong, match=r"not over after 0\.01 s"),
        signals.heard(),
        signals.bounded(0.01),
    ):
        time.sleep(20)
        went_on = True
    assert not went_on
    assert now() == before


def test_a_block_in_time_leaves_no_bound_behind() -> None:
    before = now()
    with Signals() as signals, signals.heard():
        with signals.bounded(20):
            assert now() != before
        assert now() == before


def test_a_block_that_fails_leaves_no_bound_behind() -> None:
    before = now()
    with Signals() as signals, signals.heard():
        with pytest.raises(KeyError), signals.bounded(20):
            raise KeyError("no luck")
        assert now() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGALRM])
@pytest.mark.parametrize("late", [signal.SIGINT, signal.SIGALRM])
def test_neither_a_signal_nor_the_time_interrupts_what_the_other_made_necessary(
    number: int, late: int
) -> None:
    """SIGALRM comes when the time is over."""
    expected = {signal.SIGINT: Interrupted, signal.SIGALRM: FrozenTooLong}[signal.Signals(number)]
    cleaned = False
    with Signals() as signals, pytest.raises(expected), signals.heard(), signals.bounded(20):
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), late)
            cleaned = True
    assert cleaned


def test_outside_the_block_that_hears_the_time_interrupts_nothing() -> None:
    with Signals() as signals, signals.bounded(20):
        os.kill(os.getpid(), signal.SIGALRM)


def test_a_bound_that_is_over_at_once_leaves_nothing_behind() -> None:
    before = now()
    with pytest.raises(FrozenTooLong), Signals() as signals, signals.heard(), signals.bounded(0):
        signal.pause()
    assert now() == before
