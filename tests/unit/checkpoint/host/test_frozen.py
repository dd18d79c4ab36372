"""Tests of checkpoint/host/frozen.py, with real processes that a signal has stopped."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from checkpoint.errors import ContainerDisturbed
from checkpoint.host import processes
from checkpoint.host.frozen import FrozenTasks, WaitingSignals
from tests.rig.wait import until


@pytest.fixture
def stopped() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Yield two processes that are stopped and get every signal when they go on."""
    started = [subprocess.Popen(["sleep", "100"]) for _ in range(2)]
    for process in started:
        process.send_signal(signal.SIGSTOP)
    until(lambda: {processes.state_of(each.pid) for each in started} == {"T"}, "both to stop")
    yield started
    for process in started:
        process.kill()
        process.wait()


Stopped = list[subprocess.Popen[bytes]]


def test_processes_that_nobody_touches_are_as_they_were(stopped: Stopped) -> None:
    stopped[0].send_signal(signal.SIGTERM)  # it waited when the container was frozen
    tasks = FrozenTasks([process.pid for process in stopped])
    tasks.check()
    tasks.check()


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGQUIT, "SIGQUIT"),
        (signal.SIGRTMIN + 3, str(signal.SIGRTMIN + 3)),
    ],
)
@pytest.mark.parametrize("which", [0, 1])
def test_a_request_to_stop_is_seen(stopped: Stopped, number: int, told: str, which: int) -> None:
    tasks = FrozenTasks([process.pid for process in stopped])
    stopped[which].send_signal(number)
    said = f"process {stopped[which].pid} was sent signal {told} while it was frozen"
    with pytest.raises(ContainerDisturbed, match=said):
        tasks.check()


def test_signals_of_timers_say_nothing(stopped: Stopped) -> None:
    tasks = FrozenTasks([process.pid for process in stopped])
    for number in (signal.SIGALRM, signal.SIGUSR1, signal.SIGRTMIN):
        stopped[0].send_signal(number)
    tasks.check()


@pytest.mark.parametrize("reaped", [True, False])
def test_a_process_that_was_killed_is_seen(stopped: Stopped, reaped: bool) -> None:
    tasks = FrozenTasks([process.pid for process in stopped])
    stopped[1].kill()
    if reaped:
        stopped[1].wait()
    else:
        until(lambda: processes.state_of(stopped[1].pid) in processes.ENDED, "a zombie")
    with pytest.raises(ContainerDisturbed, match=f"process {stopped[1].pid} was killed"):
        tasks.check()


def test_a_process_that_runs_is_seen(stopped: Stopped) -> None:
    tasks = FrozenTasks([process.pid for process in stopped])
    stopped[0].send_signal(signal.SIGCONT)
    until(lambda: processes.state_of(stopped[0].pid) in "RS", "a process that runs")
    with pytest.raises(ContainerDisturbed, match="runs although CRIU holds it frozen"):
        tasks.check()


@pytest.mark.parametrize("reaped", [True, False])
def test_a_process_that_had_ended_before_says_nothing(stopped: Stopped, reaped: bool) -> None:
    with subprocess.Popen(["true"]) as ended:
        if reaped:
            ended.wait()
        else:
            until(lambda: processes.state_of(ended.pid) in processes.ENDED, "a zombie")
        tasks = FrozenTasks([stopped[0].pid, ended.pid])
        tasks.check()
    tasks.check()


#: As init of a pid namespace: start a process that stops itself, and tell when both are there.
NESTED = "sh -c 'kill -STOP $$' & echo ready; wait"


def test_signals_that_wait_are_known_by_the_pid_in_the_container() -> None:
    argv = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", NESTED]
    usr1 = 1 << (signal.SIGUSR1 - 1)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as unshare:
        try:
            assert unshare.stdout is not None
            unshare.stdout.readline()
            init, stopped = processes.tree_of(unshare.pid)[1:3]
            until(lambda: processes.state_of(stopped) == "T", "it to stop")
            os.kill(stopped, signal.SIGUSR1)
            waiting = WaitingSignals(init)
            assert waiting.of(2) == usr1
            assert not waiting.of(1) & usr1
            assert waiting.of(3) == 0, "no such process"
        finally:
            unshare.kill()
    until(lambda: waiting.of(2) == 0, "it to end")
