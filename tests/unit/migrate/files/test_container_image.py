"""Tests of migrate/files/container_image.py: which files of an image go together."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.files.rsync import Rsync
from migrate.files.container_image import dealt, send_files
from tests.unit.helpers.joined import Joined


class Tunnel:
    """A tunnel to another directory of this host."""

    def __init__(self, source: Path, target: Path) -> None:
        self.bridge = self
        self._joined = (source, target)

    def rsync(self, tree: int, key: str | None) -> Rsync:
        return Rsync(tree, Joined(*self._joined).carry)


@pytest.mark.parametrize("sizes", [[], [3], [1, 2, 3, 4, 5]])
def test_all_files_arrive(tmp_path: Path, sizes: list[int]) -> None:
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    files(tmp_path / "source", sizes)
    move: Any = Tunnel(tmp_path / "source", tmp_path / "target")
    assert (send_files(move, tmp_path / "source") > 0) is bool(sizes)
    assert sorted(path.stat().st_size for path in (tmp_path / "target").iterdir()) == sizes


def files(directory: Path, sizes: list[int]) -> list[Path]:
    """Return new files of these sizes, which take no room on the disk."""
    paths = [directory / str(number) for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.touch()
        os.truncate(path, size)
    return paths


def totals(groups: list[list[Path]]) -> list[int]:
    return sorted(sum(file.stat().st_size for file in group) for group in groups)


@pytest.mark.parametrize(
    ("sizes", "shares", "expected"),
    [
        ([], 4, []),
        ([5], 4, [5]),
        ([0], 4, [0]),
        ([0, 0, 0], 2, [0, 0]),
        ([1, 2, 3], 1, [6]),
        ([1, 2, 3], 4, [1, 2, 3]),
        ([1, 1, 1, 1, 4], 2, [4, 4]),
        ([7, 7, 7, 7], 2, [14, 14]),
        ([1, 9 << 30, 2, 1], 2, [4, 9 << 30]),
    ],
)
def test_files_are_dealt_out_to_shares_of_these_sizes(
    tmp_path: Path, sizes: list[int], shares: int, expected: list[int]
) -> None:
    assert totals(dealt(files(tmp_path, sizes), shares)) == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 1 << 20), max_size=20), st.integers(1, 5))
def test_each_file_once_in_groups_of_about_the_same_size(sizes: list[int], shares: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        paths = files(Path(name), sizes)
        groups = dealt(iter(paths), shares)
        assert sorted(file for group in groups for file in group) == sorted(paths)
        assert all(groups)
        assert len(groups) == min(shares, len(sizes))
        if groups:
            found = totals(groups)
            assert found[-1] - found[0] <= max(sizes)
