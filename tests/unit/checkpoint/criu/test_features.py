"""Tests of checkpoint/criu/features.py, with a program that stands for criu."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.criu import features


@pytest.fixture
def criu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Yield a function that makes a criu of a script."""
    monkeypatch.setattr(features, "find_program", lambda name: tmp_path / name)
    features.has.cache_clear()

    def make(script: str) -> None:
        (tmp_path / "criu").write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n{script}\n')
        (tmp_path / "criu").chmod(0o755)

    yield make
    features.has.cache_clear()


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo Version: 4.2.1", 40201),
        ("echo Version: 4.1; echo GitID: v4.1", 40100),
        ("echo Version: 3.17.10", 31710),
        ("echo Version: 4.2-rc1", 40200),
        ("echo Version unknown", None),
        ("echo Version: 4.2.1; exit 1", None),
    ],
)
def test_a_version_is_read_from_crius_own_words(
    criu: Callable[[str], None], script: str, version: int | None
) -> None:
    criu(script)
    assert features.version() == version


def test_a_feature_is_tried_once(criu: Callable[[str], None], tmp_path: Path) -> None:
    criu('[ "$3" = uffd-noncoop ]')
    for _ in range(2):
        assert features.has("uffd-noncoop")
        assert not features.has("mem_dirty_track")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == [f"check --feature {name}" for name in ("uffd-noncoop", "mem_dirty_track")]


def test_a_host_without_criu_has_no_version_and_no_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    features.has.cache_clear()
    monkeypatch.setattr(features, "find_program", lambda name: None)
    assert features.version() is None
    assert not features.has("mem_dirty_track")
    features.has.cache_clear()


@pytest.mark.parametrize(
    ("merging", "tracked", "works"),
    [("0\n", True, True), ("1\n", True, False), ("0\n", False, False), (None, True, True)],
)
def test_soft_dirty_pages_are_not_trusted_while_pages_are_merged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    merging: str | None,
    tracked: bool,
    works: bool,
) -> None:
    """A kernel without KSM has no such file."""
    if merging is not None:
        (tmp_path / "run").write_text(merging)
    monkeypatch.setattr(features, "Path", lambda path: tmp_path / "run")
    monkeypatch.setattr(features, "has", lambda name: tracked)
    assert features.tracks_soft_dirty() is works
