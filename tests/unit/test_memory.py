"""checkpoint/host/memory.py: figures that can be true."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from checkpoint.host.memory import available_bytes, resident_bytes, restored_bytes


def test_available_is_a_part_of_all_memory() -> None:
    total_kb = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
    assert 0 <= available_bytes() <= total_kb * 1024


def test_resident_counts_a_process_and_its_private_memory() -> None:
    code = "data = bytearray(b'x' * (32 << 20)); print(flush=True); input()"
    argv = [sys.executable, "-IS", "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"\n"
        found = resident_bytes([child.pid])
        assert 32 << 20 <= found < 256 << 20
        assert resident_bytes([child.pid, os.getpid()]) > found
        child.kill()


def test_what_a_fork_shares_is_restored_twice() -> None:
    code = (
        "import os\ndata = bytearray(b'x' * (32 << 20))\npid = os.fork()\nif pid: print(pid, flush=True)\nos.read(0, 1)"
    )
    with subprocess.Popen([sys.executable, "-IS", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert resident_bytes([parent.pid, child]) < 60 << 20
        assert restored_bytes([parent.pid, child]) > 64 << 20
        assert restored_bytes([parent.pid]) >= 32 << 20


def test_processes_that_are_gone_count_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-IS", "-c", ""])
    child.wait()
    assert resident_bytes([child.pid]) == 0
    assert resident_bytes([]) == 0
