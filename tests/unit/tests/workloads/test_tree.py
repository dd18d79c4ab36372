"""Tests of tests/workloads/tree.py: a tree of processes notices what a migration could do to it."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.unit.tests.workloads.running import LIMIT_S, serving


def test_tree_is_sound_and_ends_with_its_root() -> None:
    with serving("tree.py", "--mib", "1") as asker:
        status = asker.until(
            lambda status: status["rounds"] >= 50 and status["ticks"] >= 5 and status["sweeps"] >= 1
        )
        assert status["ok"], status
        assert status["errors"] == []
        assert status["processes"] == 5
        assert status["counter"] > 0
        assert all(count > 0 for count in status["timers"].values())
    deadline = time.monotonic() + LIMIT_S
    while alive := [pid for pid in status["pids"].values() if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"left behind: {alive}"
        time.sleep(0.01)


@pytest.mark.parametrize("victim", ["signals", "threads", "sleeper", "poller"])
def test_tree_reports_a_killed_process_for_good(victim: str) -> None:
    with serving("tree.py", "--mib", "1") as asker:
        os.kill(asker.status()["pids"][victim], signal.SIGKILL)
        status = asker.until(lambda status: not status["ok"] and status["processes"] < 5)
        if victim == "sleeper":  # no child of the root: its neighbours tell
            asker.until(
                lambda status: any(error.startswith("threads: ") for error in status["errors"])
            )
        else:
            asker.until(lambda status: any(f"{victim} (" in error for error in status["errors"]))
        assert status["errors"]
        assert not asker.status()["ok"]


def test_tree_reports_what_has_stopped() -> None:
    with serving("tree.py", "--mib", "1", "--stalled-periods", "250") as asker:
        os.kill(asker.status()["pids"]["signals"], signal.SIGSTOP)
        status = asker.until(lambda status: len(status["errors"]) >= 2)
        assert {error.split(" at ")[0] for error in status["errors"]} >= {
            "SIGALRM has stopped",
            "the ring has stopped",
        }
