"""Compress or not: whichever got pages through faster of late. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence

#: One batch in so many is sent the other way, to see how that would do now.
PROBE_EVERY = 32
#: The other must be that much better before it is changed to, so that noise does not make it waver.
BETTER = 0.85
#: Weight of the newest batch in the running means.
NEWEST = 0.3


class EncodingChoice:
    """Told how long each batch took, all in all: encoding, waiting for the link, sending."""

    def __init__(self, available: Sequence[str]) -> None:
        self._available = tuple(available)
        self._cost: dict[str, float] = {}
        self._batches = 0
        self.current = self._available[0]

    def next(self) -> str:
        """For the next batch."""
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
        """A batch with so many bytes of pages took so long."""
        cost = seconds / max(1, size_bytes)
        before = self._cost.get(encoding, cost)
        self._cost[encoding] = before + (cost - before) * NEWEST
        best = min(self._cost, key=self._cost.__getitem__)
        if self._cost[best] < self._cost.get(self.current, float("inf")) * BETTER:
            self.current = best
