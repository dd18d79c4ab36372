"""Ctrl-C, SIGTERM and SIGHUP: they interrupt a move, but not its point of no return and not its roll-back."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from migrate.errors import Interrupted

INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Turns the signals into Interrupted, raised in the main thread. Use as a context.

    What was ignored before, as nohup(1) has it of SIGHUP, still is.
    """

    def __init__(self) -> None:
        self._shielded = False
        self.received: int | None = None

    def __enter__(self) -> Signals:
        heard = [number for number in INTERRUPTING if signal.getsignal(number) is not signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._handle) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Inside, signals are only noted."""
        before, self._shielded = self._shielded, True
        try:
            yield
        finally:
            self._shielded = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if not self._shielded:
            raise Interrupted(number)
