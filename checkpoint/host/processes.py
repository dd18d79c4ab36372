"""The processes of a container, as the host sees them in /proc (proc(5))."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass

from checkpoint.errors import ProcError
from checkpoint.host import proc
from checkpoint.host.ready import ready
from checkpoint.undo import Made

#: include/linux/sched.h: the task is in do_exit() and will not run user code again.
PF_EXITING = 0x4
#: State letters of /proc/PID/stat (fs/proc/array.c): zombie and dead; stopped by a signal and by a
#: tracer.
ENDED, STOPPED = "ZX", "Tt"
#: How long a process may take to die, once it was killed.
DEATH_S = 10.0


def tree_of(init: int) -> list[int]:
    """Return the pids of a container's init and all its descendants, init first.

    These are the processes that CRIU dumps (criu/seize.c). Processes that an engine's `exec` or
    health check has started inside the container are not among them: their parent is outside.
    """
    found = {init: None}
    pending = [init]
    for pid in pending:
        with contextlib.suppress(OSError):
            for task in os.listdir(proc.path(pid, "task")):
                children = map(int, proc.read(pid, "task", task, "children").split())
                new = [child for child in children if child not in found]
                found.update(dict.fromkeys(new))
                pending += new
    return list(found)


def virtual_pid(pid: int) -> int | None:
    """Return a process's pid in its own pid namespace (NSpid, proc(5)).

    None if the kernel does not report it. Raises OSError and ProcError.
    """
    return proc.number(proc.path(pid, "status"), "NSpid")


def has_ended(pid: int) -> bool:
    """Return whether a process is gone or a zombie, which has no memory and no files any more.

    A process in do_exit() counts as ended. Raises OSError and ProcError.
    """
    return state_of(pid) in ENDED


def start_ticks(pid: int) -> int:
    """Return when a process was started, in clock ticks since boot. Raises OSError and ProcError.

    The time tells the process from an earlier process of the same pid.
    """
    return proc.start_ticks(proc.read(pid, "stat"))


def age_s(pid: int) -> float:
    """Return how many seconds ago a process was started. Raises OSError and ProcError."""
    started = start_ticks(pid)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def state_of(pid: int) -> str:
    """Return the state letter of a process, as /proc/PID/stat has it. Raises OSError and ProcError.

    The letter is "X" also for a process that is in do_exit() or gone.
    """
    try:
        state, flags = proc.state(proc.read(pid, "stat"))
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return "X" if flags & PF_EXITING else state


def in_pid_namespace_of(init: int) -> list[int]:
    """Return the pids of all processes in the pid namespace of a container's init, init first.

    A container that shares the host's pid namespace cannot be told from the host by namespace: then
    only its init and the descendants of init are returned. Raises OSError when init is gone.
    """
    namespace = os.stat(proc.path(init, "ns", "pid_for_children"))
    if os.path.samestat(namespace, os.stat(proc.path("self", "ns", "pid"))):
        return tree_of(init)
    found = [init]
    for pid in proc.pids():
        with contextlib.suppress(OSError):
            if pid != init and os.path.samestat(os.stat(proc.path(pid, "ns", "pid")), namespace):
                found.append(pid)
    return found


@dataclass(frozen=True, kw_only=True)
class OutsideFile:
    """A descriptor of a process whose file is in none of the container's mounts."""

    pid: int
    fd: int
    path: str


def open_outside(init: int, pids: list[int]) -> list[OutsideFile]:
    """Return the open files of processes `pids` that are in none of the container's mounts.

    CRIU fails on the descriptor of such a file with "Can't lookup mount". The container's mounts
    are those that the process `init` sees. Raises OSError and ProcError.
    """
    mounts = {mount.id for mount in proc.mounts(init)}
    found = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for fd in proc.descriptors(pid):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    path = os.readlink(proc.path(pid, "fd", fd))
                    if not path.startswith("/") or path.startswith(("/memfd:", "/dev/zero (")):
                        continue
                    if proc.number(proc.path(pid, "fdinfo", fd), "mnt_id") not in mounts:
                        found.append(OutsideFile(pid=pid, fd=fd, path=path))
    return found


class Init:
    """A container's init, held by a pidfd so that its pid cannot come to mean another process."""

    def __init__(self, pid: int) -> None:
        """Hold the process. Raises OSError, and ProcError."""
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        #: Pid and start time in clock ticks since boot, which no other process of this boot has.
        self.identity = (pid, start_ticks(pid))

    def kill(self) -> None:
        """Send SIGKILL to init, and with it to all processes of its pid namespace.

        An init that is dead already is no error.
        """
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def end(self, timeout_s: float) -> bool:
        """Kill init, and return whether it died within `timeout_s`."""
        self.kill()
        return self.wait_dead(timeout_s)

    def is_dead(self) -> bool:
        """Return whether init can never run user code again.

        That is so once init has exited or is in do_exit(). An init in do_exit() may stay there:
        while CRIU traces other processes of the namespace, init waits for them in the kernel
        (zap_pid_ns_processes), and is reaped only when CRIU detaches from them.
        """
        return self.state() in ENDED

    def state(self) -> str:
        """Return the state letter of init, as /proc/PID/stat has it.

        The letter is "X" also for an init that is in do_exit(), a zombie, or reaped.
        """
        return "X" if ready(self._pidfd, timeout_s=0) else state_of(self.pid)

    def wait_dead(self, timeout_s: float) -> bool:
        """Wait until init is dead, and return whether it died within `timeout_s`.

        Dying takes microseconds, so `is_dead` is polled often. A look that fails with OSError does
        not count as death.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError):
                if self.is_dead():
                    return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0002)

    def close(self) -> None:
        os.close(self._pidfd)


class RestoredInit(Made):
    """The init of a container that was restored, and must not run: its pid and its start time.

    CRIU kills it when a restore is refused, unless CRIU was killed itself: then what it had
    restored waits for it for ever.
    """

    on_disk = False

    pid: int
    start_ticks: int

    def __str__(self) -> str:
        return f"the restored process {self.pid}"

    def remove(self) -> None:
        try:
            init = Init(self.pid)
        except (ProcError, OSError):
            return  # it is gone
        with contextlib.closing(init):
            if init.identity == (self.pid, self.start_ticks) and not init.end(DEATH_S):
                raise ProcError(f"process {self.pid} was sent SIGKILL, and does not die")
