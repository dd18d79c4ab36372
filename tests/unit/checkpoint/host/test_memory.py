"""Tests of checkpoint/host/memory.py: the RAM that processes use, and that is available."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoint.host import memory
from checkpoint.host.memory import available_bytes, use_of
from tests.unit.checkpoint.host.proc_files import show_in_proc

SHARER = Path(__file__).parent / "programs/sharer.py"


def test_available_is_a_part_of_all_memory() -> None:
    total_kb = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
    assert 0 <= available_bytes() <= total_kb * 1024


@pytest.mark.parametrize(
    "lines",
    [
        ["cache 900", "inactive_file 5", "total_cache 950", "total_inactive_file 700"],
        ["anon 1", "inactive_file 700"],
    ],
    ids=["v1", "v2"],
)
def test_the_page_cache_of_a_cgroup_and_its_children_can_be_reclaimed(
    tmp_path: Path, lines: list[str]
) -> None:
    (tmp_path / "memory.stat").write_text("\n".join(lines))
    assert memory.reclaimable_bytes(tmp_path) == 700


def test_resident_counts_a_process_and_its_private_memory() -> None:
    code = "data = bytearray(b'x' * (32 << 20)); print(flush=True); input()"
    argv = [sys.executable, "-IS", "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"\n"
        found = use_of(lambda: [child.pid]).resident_bytes
        assert 32 << 20 <= found < 256 << 20
        assert use_of(lambda: [child.pid, os.getpid()]).resident_bytes > found
        child.kill()


def test_what_a_fork_shares_is_restored_twice() -> None:
    with subprocess.Popen(
        [sys.executable, "-IS", str(SHARER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert use_of(lambda: [parent.pid, child]).resident_bytes < 60 << 20
        assert use_of(lambda: [parent.pid, child]).restored_bytes > 64 << 20
        assert use_of(lambda: [parent.pid]).restored_bytes >= 32 << 20


def test_processes_that_are_gone_count_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-IS", "-c", ""])
    child.wait()
    assert use_of(lambda: [child.pid]).resident_bytes == 0
    assert use_of(list).resident_bytes == 0


def test_processes_forked_while_others_were_measured_are_measured_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that was not listed shares memory, which would be missing in its parent's share."""
    shares_kib = {1: 50, 2: 30, 3: 20}
    rollups = {f"{pid}/smaps_rollup": f"Pss: {size} kB" for pid, size in shares_kib.items()}
    show_in_proc(monkeypatch, tmp_path, rollups)
    looks = iter([[1], [1, 2], [1, 2, 3], [1, 3]])
    assert use_of(lambda: next(looks)).resident_bytes == 100 << 10


def test_a_container_that_forks_all_the_time_is_measured_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollups = {f"{pid}/smaps_rollup": "Pss: 1 kB" for pid in range(100)}
    show_in_proc(monkeypatch, tmp_path, rollups)
    listed: list[int] = []

    def fork() -> list[int]:
        listed.append(len(listed))
        return list(listed)

    assert use_of(fork).resident_bytes == memory.MOST_LOOKS << 10
