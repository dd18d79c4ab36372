"""The progress of one migration: its state, told to the observer and entered into the report."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from migrate.decisions.state import State, check_transition
from migrate.memory.batches import PageBatches
from migrate.observer import Observer
from migrate.report import Instant, Interval, Report
from migrate.text import duration

log = logging.getLogger(__name__)


class Progress:
    """The state of one migration, and the two that hear of each step: the observer and the report.

    All instants are CLOCK_MONOTONIC of the source in ns. The report counts from the instant at
    which this object is made.
    """

    def __init__(self, report: Report, observer: Observer) -> None:
        self.report, self._observer = report, observer
        self._started_ns = time.monotonic_ns()
        self.state = State.PLANNED

    def advance(self, state: State) -> None:
        """Enter `state` and tell the observer. Raises InvalidTransition."""
        check_transition(self.state, state)
        self.state = state
        log.info("%s", state.value)
        self._observer.state(state)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a step of the migration for the report, and tell the observer that it begins."""
        start = time.monotonic_ns()
        self._observer.phase(name)
        try:
            yield
        finally:
            length = time.monotonic_ns() - start
            log.info("%s took %s", name, duration(length / 1000))
            self.report.times.phases.append(
                Interval(
                    name=name,
                    start_us=self._since_start(start),
                    length_us=length // 1000,
                )
            )

    def note(self, text: str) -> None:
        """Tell the observer a line for people, and keep it for the report."""
        log.info("%s", text)
        self._observer.note(text)
        self.report.notes.append(text)

    def instant(self, name: str, host: str, at_ns: int) -> None:
        """Enter an instant of the freeze into the report; `host` is "source" or "target"."""
        self.report.times.freeze.append(
            Instant(name=name, host=host, at_us=self._since_start(at_ns))
        )

    def sent(self, memory_bytes: int) -> None:
        """Tell the observer how much memory was sent so far, while the container runs.

        In the freeze nothing is told, because that takes time.
        """
        if self.state is State.ARMED:
            self._observer.sent(memory_bytes, self.report.sent.memory_bytes)

    def account_pages(self, batches: PageBatches, frame_bytes: int) -> None:
        """Enter into the report how much memory was sent so far.

        `frame_bytes` are the bytes of all frames of pages, before encryption.
        """
        self.report.sent.pages, self.report.sent.pages_zero = batches.pages, batches.pages_zero
        self.report.sent.page_bytes = batches.data_bytes
        self.report.sent.bytes_sent["pages"] = frame_bytes

    def _since_start(self, at_ns: int) -> int:
        return (at_ns - self._started_ns) // 1000
