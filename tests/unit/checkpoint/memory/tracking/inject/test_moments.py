"""Tests of checkpoint/memory/tracking/inject.py: the injector meets a thread at a bad moment.

A thread that the injector has stopped has registers that are not its own until the injector has put
them back.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.errors import TrackingUnavailable
from checkpoint.memory.tracking import inject, tracker
from checkpoint.memory.tracking.tracker import Tracker
from tests.unit.checkpoint.memory.tracking.inject.processes import (
    LIMIT_S,
    is_traced,
    state_of,
    until,
)
from tests.unit.helpers.obedient import Child

#: The injector waits less than this for a thread that it has not changed.
HELD_S = 2 * inject.STOP_TIMEOUT_S

ROOT = Path("/sys/fs/cgroup")

PROGRAM = Path(__file__).parents[1] / "programs/altered_injector.py"


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Have the injector run a line of code before its first ptrace call of a kind."""

    def alter(request: str, action: str) -> None:
        told = json.dumps({"request": request, "action": action})
        monkeypatch.setenv("ALTERED_INJECTOR", told)
        monkeypatch.setattr(inject, "__file__", str(PROGRAM))

    return alter


@contextlib.contextmanager
def cgroup(controller: str) -> Iterator[Path]:
    """Make a cgroup for the time of the block, of version 1 where that has the controller."""
    parent = next(path for path in (ROOT / controller, ROOT) if (path / "cgroup.procs").exists())
    if (parent / "cgroup.subtree_control").exists() and controller == "cpu":
        (parent / "cgroup.subtree_control").write_text("+cpu")
    path = parent / f"test-inject-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        for pid in (path / "cgroup.procs").read_text().split():
            (parent / "cgroup.procs").write_text(pid)
        deadline = time.monotonic() + LIMIT_S
        while path.exists():
            with contextlib.suppress(OSError):
                path.rmdir()
            assert time.monotonic() < deadline, "processes are left in it"


@contextlib.contextmanager
def frozen_by(process: Child) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield a line of code that freezes a process, and a function that thaws the process."""
    with cgroup("freezer") as path:
        name, on, off = "cgroup.freeze", "1", "0"
        if (path / "freezer.state").exists():
            name, on, off = "freezer.state", "FROZEN", "THAWED"
        (path / "cgroup.procs").write_text(str(process.pid))

        def thaw() -> None:
            (path / name).write_text(off)

        try:
            yield f"open({str(path / name)!r}, 'w').write({on!r})", thaw
        finally:
            thaw()


@contextlib.contextmanager
def slowed_by(process: Child) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield a line of code that slows a process down, and a function that ends that.

    The process gets a millisecond of processor time a second, and another process uses that up.
    """
    with cgroup("cpu") as path:
        burner = Child()
        burner.send("while True: pass")
        for each in (process, burner):
            (path / "cgroup.procs").write_text(str(each.pid))
        name, tight, loose = "cpu.max", "1000 1000000", "max"
        if (path / "cpu.cfs_quota_us").exists():
            (path / "cpu.cfs_period_us").write_text("1000000")
            name, tight, loose = "cpu.cfs_quota_us", "1000", "-1"

        def release() -> None:
            (path / name).write_text(loose)

        action = f"open({str(path / name)!r}, 'w').write({tight!r}); time.sleep(0.2)"
        try:
            yield action, release
        finally:
            release()
            burner.end()


@pytest.mark.parametrize("held_by", [frozen_by, slowed_by])
def test_a_thread_that_cannot_run_gets_its_own_registers_back(
    child: Child,
    before: Callable[[str, str], None],
    held_by: Callable[[Child], contextlib.AbstractContextManager[tuple[str, Callable[[], None]]]],
) -> None:
    with held_by(child) as (action, release):
        before("PTRACE_SYSCALL", action)
        later = threading.Timer(HELD_S, release)
        later.start()
        with contextlib.closing(Tracker(child.pid)):
            pass
        later.join()
        assert child.do("answer = 6 * 7") == 42
        assert not is_traced(child.pid)


def test_an_injector_that_waits_for_a_frozen_thread_is_left_and_not_killed(
    child: Child, before: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "INJECT_TIMEOUT_S", HELD_S)
    with frozen_by(child) as (action, thaw):
        before("PTRACE_SYSCALL", action)
        with pytest.raises(TrackingUnavailable, match="does not run"):
            Tracker(child.pid)
        assert is_traced(child.pid)
        thaw()
        until(lambda: not is_traced(child.pid))
        assert child.do("answer = 6 * 7") == 42
        until(lambda: not [each for each in threading.enumerate() if each.name == "injector"])


def test_a_stop_that_comes_while_registers_are_foreign_is_not_lost(
    child: Child, before: Callable[[str, str], None]
) -> None:
    before("PTRACE_SYSCALL", "os.kill(pid, signal.SIGSTOP)")
    with contextlib.closing(Tracker(child.pid)):
        until(lambda: state_of(child.pid) == "T")
        os.kill(child.pid, signal.SIGCONT)
        assert child.do("answer = 6 * 7") == 42


def test_a_stopped_process_is_tracked_and_stays_stopped(child: Child) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    until(lambda: state_of(child.pid) == "T")
    with contextlib.closing(Tracker(child.pid)):
        until(lambda: state_of(child.pid) == "T")
        os.kill(child.pid, signal.SIGCONT)
        assert child.do("answer = 6 * 7") == 42


def test_a_signal_that_is_being_delivered_ends_the_call_that_it_interrupts(
    child: Child, before: Callable[[str, str], None]
) -> None:
    """A pause(2) that is started again after its signal would wait for ever."""
    child.do("import signal; signal.signal(signal.SIGUSR1, lambda *_: None)")
    child.send("answer = libc.pause()")
    until(lambda: Path(f"/proc/{child.pid}/syscall").read_text().split()[0] == "34")
    before("PTRACE_INTERRUPT", "os.kill(pid, signal.SIGUSR1); wait_traced(pid)")
    with contextlib.closing(Tracker(child.pid)):
        assert child.is_ready(LIMIT_S)
        assert child.answer() == -1
