"""Ctrl-C, SIGTERM and SIGHUP, which interrupt a migration only while it can be undone.

They interrupt neither its roll-back nor what comes after it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from migrate.errors import FrozenTooLong, Interrupted

#: The answer to a signal that cannot interrupt any more.
LATE = (
    "it cannot be interrupted now: it is being rolled back, or was past the point of no return;"
    " it ends by itself"
)
INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """A handler of the signals, which raises Interrupted in the main thread. Use as a context.

    Interrupted is raised only inside `heard`; otherwise the signal is noted in `received`, and
    `answer` is called with a line for people that says why nothing more comes of it. A signal that
    was ignored before stays ignored, as nohup(1) has it of SIGHUP.
    """

    def __init__(self, answer: Callable[[str], None] = lambda _: None) -> None:
        self._answer = answer
        self._heard = False
        self.received: int | None = None

    def __enter__(self) -> Signals:
        caught = [
            number for number in INTERRUPTING if signal.getsignal(number) is not signal.SIG_IGN
        ]
        self._previous = {number: signal.signal(number, self._handle) for number in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Raise Interrupted at the first signal inside the block.

        Interrupted is raised only once, so that the clean-up after it is not interrupted. A signal
        that came before the block raises it at the start of the block. A `try` around the block
        catches every Interrupted: none is raised outside.
        """
        try:
            self._heard = True
            if self.received is not None:
                self._interrupt(self.received)
            yield
        finally:
            self._heard = False

    @contextlib.contextmanager
    def bounded(self, limit_s: float) -> Iterator[None]:
        """Raise FrozenTooLong in the block when `limit_s` seconds are over. Use inside `heard`."""

        def late(number: int, frame: FrameType | None) -> None:
            if self._heard:
                self._heard = False  # as in `heard`: the clean-up is not interrupted
                raise FrozenTooLong(limit_s)

        previous = signal.signal(signal.SIGALRM, late)
        try:
            signal.setitimer(signal.ITIMER_REAL, max(limit_s, 1e-6))
            try:
                yield
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.signal(signal.SIGALRM, previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self._heard:
            self._interrupt(number)
        else:
            self._answer(LATE)

    def _interrupt(self, number: int) -> None:
        self._heard = False
        raise Interrupted(number)
