"""checkpoint/host/own_process.py: a process leaves no core file, and its pages are locked."""

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
def test_no_core(kept: str, how: str, dumps: bool) -> None:
    """Nor of what is forked; what is executed instead, an engine or what it restores, is as it would be."""
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
    """And what is asked for is brought to hand all the same."""
    argv = [sys.executable, "-m", "tests.unit.checkpoint.host.programs.locked"]
    locked_kib, faults = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert int(locked_kib) > 1024
    assert int(faults) >= (64 << 20) // (2 << 20), "one a page, or one a huge page"


def test_who_may_not_lock_goes_on() -> None:
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
