"""Protection of a container's memory in a process of the tool: no core file, and no swap."""

from __future__ import annotations

import ctypes
import os

from checkpoint.host import proc

#: prctl(2), capabilities(7), mlockall(2)
PR_SET_DUMPABLE = 4
CAP_IPC_LOCK = 14
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4


def keep_to_itself() -> None:
    """Make the calling process "not dumpable", and lock its pages in RAM if it may do so.

    RLIMIT_CORE is not used, because programs that this process starts would inherit it, and with
    them a restored container. "Not dumpable" ends with execve(2). It does not keep root out of
    /proc/PID, and CRIU runs as root (ptrace(2), access mode checking). A child made by fork(2) is
    not dumpable either, but its pages are not locked. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl(PR_SET_DUMPABLE): {os.strerror(error)}")
    if _may_lock_all():
        # MCL_ONFAULT: memory that is only reserved, such as a thread's stack, then takes no RAM.
        libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)


def _may_lock_all() -> bool:
    """Return whether this process may lock memory without a limit (CAP_IPC_LOCK, mlock(2)).

    With a limit, allocations would fail as soon as the locked memory reaches it.
    """
    effective = proc.number("/proc/self/status", "CapEff", base=16) or 0
    return bool(effective >> CAP_IPC_LOCK & 1)
