"""Tests of migrate/memory/encoding.py: the encodings, and the choice of the faster one."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from migrate.memory import encoding
from migrate.memory.encoding import PROBE_EVERY, EncodingChoice

MIB = 1 << 20


def run(choice: EncodingChoice, batches: int, seconds: Callable[[str], float]) -> list[str]:
    """Send batches that take `seconds` each, and return the encoding chosen for each of them."""
    chosen = []
    for _ in range(batches):
        encoding = choice.next()
        choice.took(encoding, MIB, seconds(encoding))
        chosen.append(encoding)
    return chosen


@pytest.mark.parametrize(
    ("raw_s", "zstd_s", "best"), [(0.01, 0.002, "zstd"), (0.002, 0.004, "raw")]
)
def test_the_faster_encoding_is_chosen(raw_s: float, zstd_s: float, best: str) -> None:
    chosen = run(EncodingChoice(["raw", "zstd"]), 200, {"raw": raw_s, "zstd": zstd_s}.__getitem__)
    assert set(chosen[:2]) == {"raw", "zstd"}
    assert chosen.count(best) >= 190


def test_the_choice_changes_when_the_link_does() -> None:
    choice = EncodingChoice(["raw", "zstd"])
    run(choice, 100, {"raw": 0.002, "zstd": 0.004}.__getitem__)
    assert choice.current == "raw"
    run(choice, 3 * PROBE_EVERY, {"raw": 0.02, "zstd": 0.005}.__getitem__)
    assert choice.current == "zstd"


def test_noise_does_not_make_the_choice_waver() -> None:
    """Both encodings are equally fast on average, and each batch is up to a tenth off."""
    choice, changes = EncodingChoice(["raw", "zstd"]), 0
    dice = random.Random(1)  # noqa: S311 - test data
    for _ in range(2000):
        before = choice.current
        run(choice, 1, lambda _: 0.003 * dice.uniform(0.9, 1.1))
        changes += choice.current != before
    assert changes <= 1


def test_the_only_encoding_is_chosen() -> None:
    assert set(run(EncodingChoice(["raw"]), 100, lambda _: 0.001)) == {"raw"}


def test_an_empty_batch_does_not_count() -> None:
    choice = EncodingChoice(["raw", "zstd"])
    choice.took("raw", 0, 0.0)
    assert choice.next() == "zstd"


def test_zstd_is_there() -> None:
    """It is in the standard library, or a package that the project requires."""
    assert encoding.AVAILABLE == (encoding.RAW, encoding.ZSTD)
