"""Processes of a container, seen from the host through /proc (proc(5))."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from checkpoint.host import proc
from checkpoint.host.ready import ready

#: include/linux/sched.h: the task is in do_exit() and will not run user code again.
PF_EXITING = 0x4
#: States of /proc/PID/stat (fs/proc/array.c): zombie and dead; stopped by a signal or by a tracer.
ENDED, STOPPED = "ZX", "Tt"


def tree_of(init: int) -> list[int]:
    """Return a container's init and all its descendants, init first: the processes that CRIU dumps (criu/seize.c).

    What an engine's `exec` or health check has started inside the container is not among them: its parent is outside.
    """
    found = {init: None}
    pending = [init]
    for pid in pending:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                children = map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
                new = [child for child in children if child not in found]
                found.update(dict.fromkeys(new))
                pending += new
    return list(found)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie, which has no memory and no files any more."""
    return _state_of(pid) in ENDED


def age_s(pid: int) -> float:
    """Return how long ago a process was started. Raises OSError and ProcError."""
    started = proc.start_ticks(Path(f"/proc/{pid}/stat").read_bytes())
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def _state_of(pid: int) -> str:
    """Return a process's state as /proc/PID/stat has it; "X" also for one in do_exit(), or that is gone."""
    try:
        state, flags = proc.state(Path(f"/proc/{pid}/stat").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return "X" if flags & PF_EXITING else state


def in_pid_namespace_of(init: int) -> list[int]:
    """All processes of the pid namespace whose init this is, init first.

    A container that shares the host's pid namespace is not told apart from the host: only its init
    and that one's descendants are returned.
    """
    namespace = os.stat(f"/proc/{init}/ns/pid_for_children")
    if os.path.samestat(namespace, os.stat("/proc/self/ns/pid")):
        return tree_of(init)
    found = [init]
    for pid in _all_pids():
        with contextlib.suppress(OSError):
            if pid != init and os.path.samestat(os.stat(f"/proc/{pid}/ns/pid"), namespace):
                found.append(pid)
    return found


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


@dataclass(frozen=True, kw_only=True)
class OutsideFile:
    """A descriptor open on a file that is in none of the container's mounts."""

    pid: int
    fd: int
    path: str


def open_outside(init: int, pids: list[int]) -> list[OutsideFile]:
    """Descriptors CRIU would fail on with "Can't lookup mount": their mount is not the container's.

    Raises ProcError.
    """
    mounts = {mount.id for mount in proc.mounts(init)}
    found = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    path = os.readlink(f"/proc/{pid}/fd/{name}")
                    if not path.startswith("/") or path.startswith(("/memfd:", "/dev/zero (")):
                        continue
                    if proc.number(f"/proc/{pid}/fdinfo/{name}", "mnt_id") not in mounts:
                        found.append(OutsideFile(pid=pid, fd=int(name), path=path))
    return found


class Init:
    """A container's init, held by a pidfd so that its number cannot come to mean another process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def kill(self) -> None:
        """SIGKILL it, and with it everything in its pid namespace. Already dead is no error."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def is_dead(self) -> bool:
        """Whether it can never run user code again.

        Exited, or in do_exit(): while CRIU traces the others of its namespace, init waits for them
        in the kernel (zap_pid_ns_processes) and is reaped only when CRIU lets go.
        """
        return self.state() in ENDED

    def state(self) -> str:
        """Return its state as /proc/PID/stat has it; "X" also for one that is about to be dead, or was reaped."""
        return "X" if ready(self._pidfd, timeout_s=0) else _state_of(self.pid)

    def wait_dead(self, timeout_s: float) -> bool:
        """Poll `is_dead`; dying takes microseconds, so it is looked at often. What cannot be looked at is not dead."""
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
