"""Tests of migrate/costs.py: what is kept of earlier moves, and what a damaged file does."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate import costs
from migrate.costs import keep, learned
from migrate.decisions.prediction import Item


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use a file of the test's own, whose directory is not there yet."""
    found = tmp_path / "state" / "costs.json"
    monkeypatch.setattr(costs, "FILE", found)
    return found


def test_each_host_has_its_own() -> None:
    keep("beta", {Item.THREADS: 1.25})
    keep("gamma", {Item.THREADS: 0.5})
    assert learned("beta") == {Item.THREADS: 1.25}
    assert learned("gamma") == {Item.THREADS: 0.5}
    assert learned("delta") == {}


def test_the_host_of_the_oldest_move_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "MOST_HOSTS", 2)
    for host in ("beta", "gamma", "beta", "delta"):
        keep(host, {Item.FREEZE: 2.0})
    assert learned("gamma") == {}
    assert learned("beta") == learned("delta") == {Item.FREEZE: 2.0}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "\x00",
        '{"beta": 3}',
        '{"beta": {"threads": "much"}}',
        '{"beta": {"threads": 1000000}}',
        '{"beta": {"threads": -1}}',
    ],
)
def test_a_damaged_file_is_as_good_as_none(file: Path, content: str) -> None:
    file.parent.mkdir()
    file.write_text(content)
    assert learned("beta") == {}
    keep("beta", {Item.FREEZE: 2.0})
    assert learned("beta") == {Item.FREEZE: 2.0}


def test_an_item_of_another_version_is_passed_over(file: Path) -> None:
    file.parent.mkdir()
    file.write_text('{"beta": {"threads": 1500, "dreams": 1500}}')
    assert learned("beta") == {Item.THREADS: 1.5}


def test_a_file_that_cannot_be_written_is_no_error(file: Path) -> None:
    file.parent.touch()
    keep("beta", {Item.FREEZE: 2.0})
    assert learned("beta") == {}
