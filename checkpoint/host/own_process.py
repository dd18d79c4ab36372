"""The settings of this program's own process: what it may keep in RAM, open, and survive."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

from checkpoint.host import kernel, proc

#: The OOM killer must spare pager and keeper as long as it can: the container needs its pages.
OOM_SCORE_ADJ = "-1000"
#: capabilities(7)
CAP_IPC_LOCK = 14


def keep_to_itself() -> None:
    """Make the calling process "not dumpable", and lock its pages in RAM if it may do so.

    RLIMIT_CORE is not used, because programs that this process starts would inherit it, and with
    them a restored container. "Not dumpable" ends with execve(2). It does not keep root out of
    /proc/PID, and CRIU runs as root (ptrace(2), access mode checking). A child made by fork(2) is
    not dumpable either, but its pages are not locked. Raises OSError.
    """
    kernel.set_undumpable()
    if _may_lock_all():
        with contextlib.suppress(OSError):
            kernel.lock_memory()


def _may_lock_all() -> bool:
    """Return whether this process may lock memory without a limit (CAP_IPC_LOCK, mlock(2)).

    With a limit, allocations would fail as soon as the locked memory reaches it.
    """
    effective = proc.number(proc.path("self", "status"), "CapEff", base=16) or 0
    return bool(effective >> CAP_IPC_LOCK & 1)


def allow_many_descriptors() -> None:
    """Raise the process's limit of open descriptors to the hard limit.

    Each fork of a restored task brings a descriptor, which stays open until the child has all
    pages.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def protect_from_oom_killer() -> None:
    """Exempt the calling process from the OOM killer, if its privileges allow that."""
    with contextlib.suppress(OSError):
        Path(proc.path("self", "oom_score_adj")).write_text(OOM_SCORE_ADJ)
