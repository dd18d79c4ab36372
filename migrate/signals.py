"""Ctrl-C, SIGTERM and SIGHUP: they interrupt a move while it can be undone, not its roll-back nor what comes after."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from migrate.errors import Interrupted

INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Turns the signals into Interrupted, raised in the main thread, inside `heard`. Use as a context.

    Elsewhere they are only noted in `received`. A signal that was ignored before, as nohup(1) has it of SIGHUP, still
    is.
    """

    def __init__(self) -> None:
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
        """Raise Interrupted at a signal inside the block, once: what cleans up after that is not interrupted again.

        A signal that came before the block is raised at its start. Whoever encloses the block in a `try` sees every
        Interrupted: none is raised outside.
        """
        try:
            self._heard = True
            if self.received is not None:
                self._interrupt(self.received)
            yield
        finally:
            self._heard = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self._heard:
            self._interrupt(number)

    def _interrupt(self, number: int) -> None:
        self._heard = False
        raise Interrupted(number)
