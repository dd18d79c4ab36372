"""The settings of this program's own process: what it may keep in RAM, open, and survive."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NoReturn

from checkpoint.host import kernel, proc

#: The OOM killer must spare pager and keeper as long as it can: the container needs its pages.
OOM_SCORE_ADJ = "-1000"
#: The signals that end a program and do not mean one that is detached.
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
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


def fork_detached(kept: Collection[int], run: Callable[[], object]) -> int:
    """Fork a process that outlives this one, and return its pid. Raises OSError.

    The new process calls `run`, and exits with status 0, or 1 if `run` has raised. It has a session
    of its own, ignores signals that end a program, is exempt from the OOM killer, and leaves no
    core file. It has the descriptors in `kept`; its standard streams are /dev/null.

    The new process has no other thread of this one, nor what such a thread has locked. So fork
    before there are threads whose locks `run` needs.
    """
    # A signal that comes before the new process ignores it waits until then.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        with warnings.catch_warnings():
            # Python warns of a fork while there are threads.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _run_detached(kept, mask, run)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid


def _run_detached(
    kept: Collection[int], mask: Collection[int], run: Callable[[], object]
) -> NoReturn:
    status = 1
    try:
        os.setsid()  # signals for the parent's process group are not for this process
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _close_all_but(kept)
        protect_from_oom_killer()
        kernel.set_undumpable()
        run()
        status = 0
    finally:
        os._exit(status)


def _close_all_but(kept: Collection[int]) -> None:
    """Close all inherited descriptors except `kept`; standard streams become /dev/null.

    The channel to a peer, for one, must end when the parent ends.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    for fd in proc.descriptors("self"):
        if fd > 2 and fd not in kept:
            with contextlib.suppress(OSError):
                os.close(fd)
