"""Tests of tests/workloads/churn.py: it notices changed memory of every kind."""

from pathlib import Path

import pytest

from tests.unit.tests.workloads.running import serving
from tests.workloads import churn, dirtier


def test_churn_goes_on_changing_memory_and_is_sound(tmp_path: Path) -> None:
    with serving(
        "churn.py", "--mib", "16", "--mb-per-second", "40", "--directory", str(tmp_path)
    ) as asker:
        first = asker.status()
        assert asker.until(
            lambda now: (
                now["forks"] > 4
                and all(now[kind] > first[kind] + 5 for kind in ("maps", "growths", "drops"))
            )
        )["ok"]


@pytest.mark.parametrize(
    "kind", ["private", "shared", "file", "copy on write", "dropped", "grown", "young 3"]
)
def test_churn_finds_a_changed_byte_in_every_kind_of_memory(tmp_path: Path, kind: str) -> None:
    changing = churn.Churn(4 << 20, tmp_path, 1e6)
    changing._timers = [timer for timer in changing._timers if timer._action != changing._fork]
    for _ in range(20):
        changing.tick()
        for timer in changing._timers:
            timer._due = 0.0
    assert changing.report()["ok"], changing.report()
    parts = changing.parts_by_name()
    page = parts[kind].count // 2
    parts[kind].memory[page * dirtier.PAGE_BYTES + 100] ^= 1
    report = changing.report()
    assert not report["ok"]
    errors: list[str] = report["errors"]  # type: ignore[assignment]
    assert [f"{kind}: page {page}"] == [error.split(": expected")[0] for error in errors]
