"""How a series of measurements is told."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def percentile(values: Sequence[float], hundredths: int) -> float:
    return sorted(values)[len(values) * hundredths // 100]


def spread(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    return {
        "min": round(min(values), digits),
        "median": round(statistics.median(values), digits),
        "max": round(max(values), digits),
    }
