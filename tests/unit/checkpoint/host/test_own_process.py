"""Tests of checkpoint/host/own_process.py: no core file of a process, and locked pages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.helpers.checkout import ROOT

PROGRAMS = Path(__file__).parent / "programs"


@pytest.mark.parametrize(
    ("kept", "how", "dumps"),
    [
        ("not", "aborted", True),
        ("not", "forked", True),
        ("kept", "aborted", False),
        ("kept", "forked", False),
        ("kept", "executed", True),
    ],
)
def test_a_process_that_keeps_to_itself_leaves_no_core_file(
    kept: str, how: str, dumps: bool
) -> None:
    """A forked child leaves none, either. Another program in the process's place leaves one.

    That program is an engine, or what an engine restores.
    """
    argv = [sys.executable, str(PROGRAMS / "aborts.py"), kept, how]
    pid = os.posix_spawn(sys.executable, argv, {**os.environ, "PYTHONPATH": str(ROOT)})
    _, status = os.waitpid(pid, 0)
    for core in ROOT.glob("core*"):
        if core.is_file():
            core.unlink()
    seen = os.waitstatus_to_exitcode(status) == 77 if how == "forked" else os.WCOREDUMP(status)
    assert seen is dumps
    if how != "forked":
        assert os.WTERMSIG(status) == signal.SIGABRT


def test_pages_are_locked() -> None:
    """Memory is brought to hand all the same."""
    argv = [sys.executable, "-m", "tests.unit.checkpoint.host.programs.locked"]
    locked_kib, faults = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert int(locked_kib) > 1024
    assert int(faults) >= (64 << 20) // (2 << 20), "one a page, or one a huge page"


def test_a_process_that_may_not_lock_its_pages_goes_on() -> None:
    """Without CAP_IPC_LOCK there is a limit, at which later allocations would fail."""
    code = (
        "from checkpoint.host.own_process import keep_to_itself; "
        "keep_to_itself(); bytearray(64 << 20); print('went on')"
    )
    limited = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]
    argv = [*limited, sys.executable, "-c", code]
    assert (
        subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        == "went on\n"
    )
