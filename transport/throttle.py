"""A rate limit for the bytes that a migration sends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: The time by which bytes may be sent ahead of the rate: long enough to be worth a sleep, short
#: enough to be no burst.
AHEAD_S = 0.02


class RateLimit:
    """A rate limit that all senders of a migration share. A rate of None limits nothing.

    Several threads may use one limit. `held_us` is the sum of the times that they were made to
    wait, in microseconds.
    """

    def __init__(
        self,
        bytes_per_s: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._lifted = threading.Event()
        self._clock, self._sleep = clock, sleep or self._lifted.wait
        self._lock = threading.Lock()
        self._due = 0.0
        self.held_us = 0

    def take(self, size: int) -> None:
        """Wait until `size` more bytes may be sent.

        Time in which nothing was sent gives no credit for later.
        """
        if self._bytes_per_s is None or self._lifted.is_set():
            return
        with self._lock:
            now = self._clock()
            self._due = max(self._due, now) + size / self._bytes_per_s
            wait = self._due - now - AHEAD_S
        if wait > 0:
            self._sleep(wait)
            with self._lock:
                self.held_us += int((self._clock() - now) * 1e6)

    def lift(self) -> None:
        """End the limit: later calls of `take` do not wait, and waiting ones return."""
        self._lifted.set()
