"""Tests of migrate/signals.py, by real signals to this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from migrate.errors import Interrupted
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
