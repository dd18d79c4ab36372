"""Tests of checkpoint/memory/tracking/inject.py: the injector meets a thread at a bad moment.

A thread that the injector has stopped has registers that are not its own until the injector has put
them back.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checkpoint.errors import TrackingUnavailable
from checkpoint.memory.tracking import inject, tracker
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
from checkpoint.memory.tracking.tracker import Tracker
from tests.unit.helpers.forked import forked
from tests.unit.helpers.obedient import Child

#: A test that would hang fails after this time.
LIMIT_S = 20.0
#: The injector waits less than this for a thread that it has not changed.
HELD_S = 2 * inject.STOP_TIMEOUT_S
ROOT = Path("/sys/fs/cgroup")

PROGRAM = Path(__file__).parent / "programs/altered_injector.py"


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


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_traced(pid: int) -> bool:
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


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


def untouched(child: Child) -> bool:
    """Return whether a process is traced by nobody and goes on."""
    return not is_traced(child.pid) and child.do("answer = 6 * 7") == 42


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


def test_a_descriptor_of_another_process(child: Child) -> None:
    before_call = os.listdir(f"/proc/{child.pid}/fd")
    fd, stopped_us = inject.userfaultfd_of(child.pid)
    assert os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[userfaultfd]"
    os.close(fd)
    assert stopped_us > 0
    assert os.listdir(f"/proc/{child.pid}/fd") == before_call
    assert untouched(child)


def test_a_process_that_may_open_nothing_more(child: Child) -> None:
    child.do("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))")
    with pytest.raises(InjectError, match="userfaultfd in the process: Too many open files"):
        inject.userfaultfd_of(child.pid)
    assert untouched(child)


def test_the_result_of_a_call_that_fails(child: Child) -> None:
    with Stopped(child.pid) as thread:
        assert thread.call(SYS_CLOSE, NO_FD) == -9  # EBADF
    assert untouched(child)


def test_a_call_that_faults_is_given_up(child: Child) -> None:
    """There is no instruction at the address. The process has its own registers again."""
    with pytest.raises(InjectError, match="got signal"), Stopped(child.pid) as thread:
        thread.instruction = child.address  # may be read and written, and not be run
        thread.call(SYS_CLOSE, NO_FD)
    assert untouched(child)


def test_where_a_system_call_is(child: Child) -> None:
    address = inject.find_syscall(child.pid)
    with open(f"/proc/{child.pid}/mem", "rb", 0) as memory:
        memory.seek(address)
        assert memory.read(2) == inject.SYSCALL_INSTRUCTION


def test_no_system_call(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inject, "SYSCALL_INSTRUCTION", os.urandom(32))
    with pytest.raises(InjectError, match="no syscall instruction"):
        inject.find_syscall(child.pid)


def test_seccomp_is_seen(child: Child) -> None:
    assert not inject.has_seccomp(child.pid)
    child.do(FILTERED)
    assert inject.has_seccomp(child.pid)
    assert Stopped(child.pid).options & inject.O_SUSPEND_SECCOMP


def test_a_process_that_ends_before_it_stops(
    child: Child, before_call: Callable[[int, Callable[[int], object]], None]
) -> None:
    before_call(inject.PTRACE_INTERRUPT, lambda pid: os.kill(pid, signal.SIGKILL))
    with pytest.raises((InjectError, OSError), match=r"ended|No such process"):
        inject.userfaultfd_of(child.pid)


def test_a_process_that_ends_in_a_call(
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


def test_a_thread_that_gets_no_time_to_stop(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_kernel_without_restartable_sequences() -> None:
    """ptrace(2) fails on such a kernel; here it fails because this process does not trace itself."""
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


# --- the program -----------------------------------------------------------------------------------


def told(monkeypatch: pytest.MonkeyPatch, pid: int) -> tuple[dict[str, object], list[int]]:
    """Return the words and the descriptors that the program sends for a process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr("sys.argv", ["inject.py", str(pid), str(theirs.fileno())])
    with ours, theirs:
        forked(inject.main)
        data, fds, _, _ = socket.recv_fds(ours, 4096, 2)
    return json.loads(data), list(fds)


def test_the_program_sends_a_descriptor(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    words, fds = told(monkeypatch, child.pid)
    assert words.keys() == {"stopped_us"}
    assert [os.readlink(f"/proc/self/fd/{fd}") for fd in fds] == ["anon_inode:[userfaultfd]"]
    for fd in fds:
        os.close(fd)


def test_the_program_says_what_went_wrong(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    child.end()
    words, fds = told(monkeypatch, child.pid)
    assert "No such process" in str(words["error"])
    assert fds == []


def test_another_architecture(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert told(monkeypatch, child.pid) == ({"error": "not supported on aarch64"}, [])


@pytest.mark.parametrize("bad", [0, 3, inject.ATTEMPTS - 1, inject.ATTEMPTS])
def test_a_wrong_moment_is_tried_again(
    child: Child, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    plain, moments = inject.userfaultfd_of, [NotHere("wrong moment")] * bad

    def altered(pid: int) -> tuple[int, int]:
        if moments:
            raise moments.pop()
        return plain(pid)

    monkeypatch.setattr(inject, "userfaultfd_of", altered)
    words, fds = told(monkeypatch, child.pid)
    assert words.get("error") == ("wrong moment" if bad == inject.ATTEMPTS else None)
    for fd in fds:
        os.close(fd)
