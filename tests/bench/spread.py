"""The figures by which a result tells a series of measurements."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def percentile(values: Sequence[float], hundredths: int) -> float:
    """Return the value below which so many hundredths of the values are."""
    return sorted(values)[len(values) * hundredths // 100]


def spread(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """Return the least, the median and the greatest value."""
    return {
        "min": round(min(values), digits),
        "median": round(statistics.median(values), digits),
        "max": round(max(values), digits),
    }
