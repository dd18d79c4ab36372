"""Tests of checkpoint/memory/tracking/inject.py: a stopped thread, and the calls that it makes."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.memory.tracking import inject
from checkpoint.memory.tracking.inject import (
    ERESTART_RESTARTBLOCK,
    ERESTARTNOHAND,
    ERESTARTNOINTR,
    ERESTARTSYS,
    M64,
    SYS_RESTART_SYSCALL,
    InjectError,
    NotHere,
    Stopped,
)
from tests.unit.checkpoint.memory.tracking.inject.processes import is_traced, untouched
from tests.unit.helpers.obedient import Child

#: Descriptors and numbers of system calls that are not there.
NO_FD = 9999

SYS_CLOSE, SYS_READ, SYS_PAUSE, SYS_EPOLL_WAIT = 3, 0, 34, 232

#: PR_SET_NO_NEW_PRIVS and PR_SET_SECCOMP, with a filter that allows everything (seccomp(2)).
FILTERED = """
place = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000), 8)
program = struct.pack("H6xQ", 1, ctypes.addressof(place))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program, 0, 0) == 0
"""


@pytest.fixture
def before_call(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[int], object]], None]:
    """Return a function that sets what is done, with the pid, before the first call of a kind."""

    def alter(request: int, action: Callable[[int], object]) -> None:
        plain = inject.ptrace
        done: list[int] = []

        def altered(kind: int, tid: int, address: int = 0, data: int = 0) -> int:
            if kind == request and not done:
                done.append(kind)
                action(tid)
            return plain(kind, tid, address, data)

        monkeypatch.setattr(inject, "ptrace", altered)

    return alter


def test_a_descriptor_is_taken_and_the_process_goes_on(child: Child) -> None:
    before_call = os.listdir(f"/proc/{child.pid}/fd")
    fd, stopped_us = inject.userfaultfd_of(child.pid)
    assert os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[userfaultfd]"
    os.close(fd)
    assert stopped_us > 0
    assert os.listdir(f"/proc/{child.pid}/fd") == before_call
    assert untouched(child)


def test_a_process_that_may_open_nothing_more_is_an_error(child: Child) -> None:
    child.do("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))")
    with pytest.raises(InjectError, match="userfaultfd in the process: Too many open files"):
        inject.userfaultfd_of(child.pid)
    assert untouched(child)


def test_a_call_that_fails_has_its_error_as_result(child: Child) -> None:
    with Stopped(child.pid) as thread:
        assert thread.call(SYS_CLOSE, NO_FD) == -9  # EBADF
    assert untouched(child)


def test_a_call_that_faults_is_given_up(child: Child) -> None:
    """There is no instruction at the address. The process has its own registers again."""
    with pytest.raises(InjectError, match="got signal"), Stopped(child.pid) as thread:
        thread.instruction = child.address  # may be read and written, and not be run
        thread.call(SYS_CLOSE, NO_FD)
    assert untouched(child)


def test_a_syscall_instruction_is_found(child: Child) -> None:
    address = inject.find_syscall(child.pid)
    with open(f"/proc/{child.pid}/mem", "rb", 0) as memory:
        memory.seek(address)
        assert memory.read(2) == inject.SYSCALL_INSTRUCTION


def test_a_process_without_a_syscall_instruction_is_an_error(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inject, "SYSCALL_INSTRUCTION", os.urandom(32))
    with pytest.raises(InjectError, match="no syscall instruction"):
        inject.find_syscall(child.pid)


def test_seccomp_is_seen(child: Child) -> None:
    assert not inject.has_seccomp(child.pid)
    child.do(FILTERED)
    assert inject.has_seccomp(child.pid)
    assert Stopped(child.pid).options & inject.O_SUSPEND_SECCOMP


def test_a_process_that_ends_before_it_stops_is_an_error(
    child: Child, before_call: Callable[[int, Callable[[int], object]], None]
) -> None:
    before_call(inject.PTRACE_INTERRUPT, lambda pid: os.kill(pid, signal.SIGKILL))
    with pytest.raises((InjectError, OSError), match=r"ended|No such process"):
        inject.userfaultfd_of(child.pid)


def test_a_process_that_ends_in_a_call_is_an_error(
    child: Child, before_call: Callable[[int, Callable[[int], object]], None]
) -> None:
    before_call(inject.PTRACE_SYSCALL, lambda pid: os.kill(pid, signal.SIGKILL))
    with pytest.raises((InjectError, OSError), match=r"ended|No such process"):
        inject.userfaultfd_of(child.pid)


def test_a_signal_on_its_way_is_delivered_first(
    child: Child, before_call: Callable[[int, Callable[[int], object]], None]
) -> None:
    child.do("import signal; got = []; signal.signal(signal.SIGUSR1, lambda *_: got.append(1))")

    def signalled(pid: int) -> None:
        os.kill(pid, signal.SIGUSR1)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "t":
            time.sleep(0.001)

    before_call(inject.PTRACE_INTERRUPT, signalled)
    with pytest.raises(NotHere, match="delivery of a signal"):
        inject.userfaultfd_of(child.pid)
    assert not is_traced(child.pid)
    assert child.do("answer = got") == [1]


def test_a_thread_that_gets_no_time_to_stop_is_an_error(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inject, "STOP_TIMEOUT_S", 0.0)
    thread = Stopped(child.pid)
    with pytest.raises(InjectError, match="did not stop"):
        thread.__enter__()
    thread.wait_stop()  # as the kernel does it when the injector ends
    inject.ptrace(inject.PTRACE_DETACH, child.pid)
    assert untouched(child)


def unattached(**saved: int) -> Stopped:
    """Return this process's thread as if it had been stopped with such registers."""
    thread = object.__new__(Stopped)
    thread.tid = os.getpid()
    thread.saved = {**dict.fromkeys(inject.NAMES, 0), "cs": inject.USER_CS_64, **saved}
    return thread


def test_32_bit_code_is_refused() -> None:
    with pytest.raises(InjectError, match="32-bit"):
        unattached(cs=0x23).check()


@pytest.mark.parametrize(
    ("registered", "section"), [(True, 0), (True, 0x1000), (False, 0), (False, 0x1000)]
)
def test_a_restartable_sequence_is_not_entered(
    monkeypatch: pytest.MonkeyPatch, registered: bool, section: int
) -> None:
    """This process has the struct rseq, and stands for the process that is stopped."""
    rseq = ctypes.create_string_buffer(struct.pack("IIQ", 0, 0, section), 32)
    pointer = ctypes.addressof(rseq) if registered else 0

    def ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> int:
        assert request == inject.PTRACE_GET_RSEQ_CONFIGURATION
        ctypes.memmove(data, struct.pack("Q", pointer), 8)
        return 24

    monkeypatch.setattr(inject, "ptrace", ptrace)
    if registered and section:
        with pytest.raises(NotHere, match="restartable sequence"):
            unattached().check()
    else:
        unattached().check()


def test_a_kernel_without_restartable_sequences_has_none_to_avoid() -> None:
    """ptrace(2) fails on such a kernel, as it does here for a process that nobody traces."""
    unattached().check()


@pytest.mark.parametrize(
    ("error", "call", "resumed_at", "rax"),
    [
        # (the interrupted call's error, the call, whether its instruction comes again, rax then)
        (0, SYS_READ, 0, 0),
        (2, SYS_READ, 0, M64 + 1 - 2),
        (ERESTARTSYS, SYS_READ, -2, SYS_READ),
        (ERESTARTNOINTR, SYS_READ, -2, SYS_READ),
        (ERESTARTNOHAND, SYS_PAUSE, -2, SYS_PAUSE),
        (ERESTART_RESTARTBLOCK, SYS_READ, -2, SYS_RESTART_SYSCALL),
        (inject.EINTR, SYS_EPOLL_WAIT, -2, SYS_EPOLL_WAIT),
        (inject.EINTR, SYS_READ, 0, M64 + 1 - inject.EINTR),
        (ERESTARTSYS, M64, 0, M64 + 1 - ERESTARTSYS),  # in no call: the number only looks like it
    ],
)
def test_an_interrupted_call_comes_again(error: int, call: int, resumed_at: int, rax: int) -> None:
    thread = unattached(rip=0x1000, rax=(M64 + 1 - error) & M64, orig_rax=call)
    values = thread.resumable()
    assert (values["rip"], values["rax"]) == (0x1000 + resumed_at, rax)
    assert values["orig_rax"] == M64, "the kernel must not restart a call once more"
