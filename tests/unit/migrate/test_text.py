"""Tests of migrate/text.py: durations and sizes as people read them."""

from __future__ import annotations

import pytest

from migrate import text


@pytest.mark.parametrize(
    ("us", "said"),
    [
        (0, "0.0 ms"),
        (1_340, "1.3 ms"),
        (127_400, "127 ms"),
        (3_885_200, "3.9 s"),
        (59_940_000, "59.9 s"),
        (60_000_000, "1 min 0 s"),
        (125_000_000, "2 min 5 s"),
        (3_599_000_000, "59 min 59 s"),
        (3_600_000_000, "1 h 0 min"),
        (7_500_000_000, "2 h 5 min"),
    ],
)
def test_durations(us: float, said: str) -> None:
    assert text.duration(us) == said


@pytest.mark.parametrize(
    ("size_bytes", "said"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (128 << 20, "128 MiB"),
        (5 << 29, "2.5 GiB"),
        (5 << 50, "5120 TiB"),
    ],
)
def test_sizes(size_bytes: int, said: str) -> None:
    assert text.size(size_bytes) == said
