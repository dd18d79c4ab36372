"""One clock for both hosts: the offset of the target's, estimated over the channel. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question for the target's clock, and its answer.

    `asked_ns` and `answered_ns` are the source's clock before and after; `theirs_ns` is the
    target's in between.
    """

    asked_ns: int
    answered_ns: int
    theirs_ns: int


@dataclass(frozen=True, kw_only=True)
class Offset:
    """The target's clock less the source's, in ns; the true value is at most `error_ns` off."""

    offset_ns: int
    error_ns: int

    def to_ours(self, theirs_ns: int) -> int:
        """Return a time of the target's clock on the source's clock. Both are in ns."""
        return theirs_ns - self.offset_ns


def estimate(samples: Iterable[Sample]) -> Offset:
    """Return the offset by the sample with the shortest round trip.

    The answer was given somewhere inside the round trip, so the error is half of it at most.
    """
    best = min(samples, key=lambda s: s.answered_ns - s.asked_ns)
    trip = best.answered_ns - best.asked_ns
    half = trip // 2
    return Offset(offset_ns=best.theirs_ns - (best.asked_ns + half), error_ns=trip - half)
