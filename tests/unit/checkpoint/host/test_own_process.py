"""Tests of checkpoint/host/own_process.py: no core file of a process, and locked pages.

A process that outlives another has nothing of it but what it needs.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.host import proc
from checkpoint.host.own_process import OOM_SCORE_ADJ, fork_detached
from checkpoint.host.ready import ready
from tests.unit.helpers.apart import TIMEOUT_S, Apart
from tests.unit.helpers.checkout import ROOT

PROGRAMS = Path(__file__).parent / "programs"
PR_GET_DUMPABLE = 3  # include/uapi/linux/prctl.h
CAP_SYS_RESOURCE = 24  # capabilities(7)


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


class Detached:
    """A detached process that a test can ask, and end. It keeps a socket for that."""

    def __init__(self) -> None:
        self._socket, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (self._socket, self._theirs):
            each.settimeout(TIMEOUT_S)

    def fork(self, describe: Callable[[], object] = dict) -> int:
        """Fork the process, which tells what it finds by `describe`, and waits for the end."""

        def run() -> None:
            self._theirs.send(json.dumps(describe()).encode())
            assert self._theirs.recv(1) == b"."
            self._theirs.send(json.dumps("ended").encode())

        return fork_detached([self._theirs.fileno()], run)

    def told(self) -> Any:
        """Return what the process has told."""
        return json.loads(self._socket.recv(1 << 16))

    def end(self, how: bytes = b".") -> None:
        """Have the process end. Unless `how` is a dot, it fails."""
        self._socket.send(how)

    def close(self) -> None:
        self._socket.close()
        self._theirs.close()


@pytest.fixture
def detached() -> Iterator[Detached]:
    found = Detached()
    yield found
    found.close()


def what_a_process_has() -> dict[str, Any]:
    """Return what the calling process has to itself, and of another."""
    one_to_look = 1
    return {
        "descriptors": len(proc.descriptors("self")) - one_to_look,
        "standard": [os.readlink(f"/proc/self/fd/{number}") for number in range(3)],
        "leads its session": os.getsid(0) == os.getpid() == os.getpgrp(),
        "oom_score_adj": Path("/proc/self/oom_score_adj").read_text().strip(),
        "dumpable": ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0),
    }


def test_a_detached_process_has_nothing_of_its_parent_but_what_it_needs(detached: Detached) -> None:
    """The OOM killer spares it, if this process may ask for that."""
    standard, told_by = 3, 1
    ours = Path("/proc/self/oom_score_adj").read_text().strip()
    capable = proc.number("/proc/self/status", "CapEff", base=16) or 0
    pid = detached.fork(what_a_process_has)
    assert detached.told() == {
        "descriptors": standard + told_by,
        "standard": ["/dev/null"] * 3,
        "leads its session": True,
        "oom_score_adj": OOM_SCORE_ADJ if capable >> CAP_SYS_RESOURCE & 1 else ours,
        "dumpable": 0,
    }
    detached.end()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_detached_process_closes_its_parents_channels(detached: Detached) -> None:
    """Whoever is at the other end must see the parent end."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            pid = detached.fork()
        detached.told()
        assert ours.recv(1) == b""
    detached.end()
    os.waitpid(pid, 0)


def test_a_detached_process_outlives_its_parent_and_signals_that_end_programs(
    detached: Detached,
) -> None:
    parent = Apart(lambda: detached.fork(os.getpid))
    assert parent.exit_code() == 0
    parent.close()
    pidfd = os.pidfd_open(detached.told())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.pidfd_send_signal(pidfd, number)
    detached.end()
    assert detached.told() == "ended"
    assert ready(pidfd, timeout_s=TIMEOUT_S)
    os.close(pidfd)


def test_the_exit_status_tells_whether_a_detached_process_has_failed(detached: Detached) -> None:
    pid = detached.fork()
    detached.told()
    detached.end(how=b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
