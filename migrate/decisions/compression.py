"""The choice whether to compress pages, by what got them through faster lately. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence

#: One batch in so many is sent in another encoding than the current one, to see how that does now.
PROBE_EVERY = 32
#: Another encoding replaces the current one only if it costs less than this share of the current
#: cost, so that noise does not make the choice waver.
BETTER = 0.85
#: The weight of the newest batch in the running means.
NEWEST = 0.3


class EncodingChoice:
    """The choice of an encoding for each batch, by a running mean of the seconds that a byte takes.

    The time of a batch is all of it: encoding, waiting for the link, sending.
    """

    def __init__(self, available: Sequence[str]) -> None:
        self._available = tuple(available)
        self._cost: dict[str, float] = {}
        self._batches = 0
        self.current = self._available[0]

    def next(self) -> str:
        """Return the encoding for the next batch."""
        self._batches += 1
        for encoding in self._available:
            if encoding not in self._cost:
                return encoding
        if self._batches % PROBE_EVERY == 0:
            others = [encoding for encoding in self._available if encoding != self.current]
            if others:
                return others[self._batches // PROBE_EVERY % len(others)]
        return self.current

    def took(self, encoding: str, size_bytes: int, seconds: float) -> None:
        """Account a batch with `size_bytes` of pages, which took so many seconds in all."""
        cost = seconds / max(1, size_bytes)
        before = self._cost.get(encoding, cost)
        self._cost[encoding] = before + (cost - before) * NEWEST
        best = min(self._cost, key=self._cost.__getitem__)
        if self._cost[best] < self._cost.get(self.current, float("inf")) * BETTER:
            self.current = best
