"""One clock for two hosts: the offset of the target's, estimated over the channel. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A question and its answer: our clock before and after, the other's in between. All ns."""

    asked_ns: int
    answered_ns: int
    theirs_ns: int


@dataclass(frozen=True, kw_only=True)
class Offset:
    """theirs - ours, in ns; the true value is within `error_ns` of it either way."""

    offset_ns: int
    error_ns: int

    def to_ours(self, theirs_ns: int) -> int:
        """A time of their clock on ours."""
        return theirs_ns - self.offset_ns


def estimate(samples: Iterable[Sample]) -> Offset:
    """From the sample with the shortest round trip: the answer was given somewhere inside it."""
    best = min(samples, key=lambda s: s.answered_ns - s.asked_ns)
    trip = best.answered_ns - best.asked_ns
    half = trip // 2
    return Offset(offset_ns=best.theirs_ns - (best.asked_ns + half), error_ns=trip - half)
