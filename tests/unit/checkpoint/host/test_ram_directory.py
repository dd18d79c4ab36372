"""Tests of checkpoint/host/ram_directory.py: directories in RAM, each with its owner."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.errors import CommandFailed
from checkpoint.host import ram_directory, run
from tests.unit.checkpoint.host.proc_files import show_in_proc

NAME, OTHER = "0123456789ab", "ba9876543210"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a directory in which this host has its directories in RAM."""
    monkeypatch.setattr(ram_directory, "RUN", tmp_path / "run")
    yield tmp_path
    for path in sorted((tmp_path / "run").glob("*")):
        subprocess.run(
            ["umount", "--recursive", "--lazy", str(path)], check=False, capture_output=True
        )


def test_a_directory_in_ram_is_kept_out_of_swap(here: Path) -> None:
    told: list[str] = []
    with ram_directory.ram_directory(NAME, 1 << 20, told.append) as path:
        options = [
            line.split()[3]
            for line in Path("/proc/mounts").read_text().splitlines()
            if str(path) in line
        ]
        assert "noswap" in options[0].split(",")
        assert path.stat().st_mode & 0o777 == 0o700
    assert told == []
    assert not path.exists()


def test_a_directory_has_one_owner_alone_or_several_that_share_it(tmp_path: Path) -> None:
    alone = ram_directory.claim_alone(tmp_path)
    assert alone is not None
    assert ram_directory.claim_alone(tmp_path) is None
    assert not ram_directory.is_abandoned(tmp_path)
    os.close(alone)
    shared = ram_directory.claim(tmp_path)
    assert ram_directory.claim_alone(tmp_path) is None
    os.close(shared)
    assert ram_directory.claim_alone(tmp_path / "gone") is None
    assert ram_directory.is_abandoned(tmp_path)


@pytest.mark.parametrize("swaps", [True, False])
def test_a_kernel_that_cannot_keep_it_out_of_swap_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    """It is told only on a host that has swap space."""

    def without_noswap(argv: list[str]) -> str:
        if any("noswap" in word for word in argv):
            raise CommandFailed(argv, 32, "bad option")
        return run.run(argv)

    monkeypatch.setattr(ram_directory, "run", without_noswap)
    heading = "Filename Type Size Used Priority\n"
    swap = "/dev/sda2 partition 1 0 -2\n"
    show_in_proc(monkeypatch, here / "proc", {"swaps": heading + swap * swaps})
    told: list[str] = []
    with ram_directory.ram_directory(NAME, 1 << 20, told.append) as path:
        assert os.path.ismount(path)
    assert ["swapped out" in line for line in told] == [True] * swaps
