"""migrate/signals.py: real signals to this process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from migrate.errors import Interrupted
from migrate.signals import INTERRUPTING, Signals


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Whoever started the tests may ignore some of them, as nohup(1) and a shell's `&` do."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in INTERRUPTING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_what_was_ignored_still_is() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as raised, Signals():
        os.kill(os.getpid(), number)
    assert raised.value.signal_number == number
    assert signal.getsignal(number) is before


def test_a_shield_holds_until_its_own_end() -> None:
    with Signals() as signals:
        with signals.shielded():
            with signals.shielded():
                os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
