"""Keep what a process holds of a container's memory in RAM: in no core file, and in no swap."""

from __future__ import annotations

import ctypes
import os

from checkpoint.host import proc

#: prctl(2), capabilities(7), mlockall(2)
PR_SET_DUMPABLE = 4
CAP_IPC_LOCK = 14
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4


def keep_to_itself() -> None:
    """Have the calling process dump no core, and keep its pages in RAM as far as it may.

    Not by RLIMIT_CORE: what is started from here would inherit that, and a restored container with it. "Not
    dumpable" ends with execve(2), and does not keep root, as which CRIU runs, out of /proc/PID (ptrace(2), access
    mode checking). A fork keeps it, but not the lock on its pages. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl(PR_SET_DUMPABLE): {os.strerror(error)}")
    if _may_lock_all():
        # On fault: what is only reserved, a thread's stack for one, takes no RAM for that.
        libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)


def _may_lock_all() -> bool:
    """Whether no limit is in the way (mlock(2)): at one, to allocate more would fail from then on."""
    effective = proc.number("/proc/self/status", "CapEff", base=16) or 0
    return bool(effective >> CAP_IPC_LOCK & 1)
