"""The tracker, which finds out which pages of a running process were written."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from checkpoint.errors import ProcError, TrackingUnavailable
from checkpoint.host import proc, processes, run
from checkpoint.host.ready import ready
from checkpoint.host.worker import Worker
from checkpoint.memory.ranges import Range
from checkpoint.memory.tracking import inject, write_protection

INJECT_TIMEOUT_S = 20.0


class Tracker:
    """The write tracking of one process, by userfaultfd write protection (write_protection.py).

    `virtual_pid` is the process's pid in its own pid namespace. `stopped_us` is how long one of its
    threads was stopped to attach, in microseconds. `close` leaves the process as it was: the kernel
    unregisters everything when the userfaultfd is closed.
    """

    def __init__(self, pid: int) -> None:
        """Attach to a running process.

        Raises TrackingUnavailable with the reason; the process then runs on untracked.
        """
        self.pid = pid
        with contextlib.ExitStack() as undo:
            try:
                self._pidfd = os.pidfd_open(pid)
                undo.callback(os.close, self._pidfd)
                self.virtual_pid = virtual_pid(pid)
                if reads_directly(pid):
                    raise TrackingUnavailable(
                        f"process {pid}: it has a file open for direct I/O, which is not seen"
                    )
                self._uffd, self.stopped_us = _inject(pid)
                undo.callback(os.close, self._uffd)
                write_protection.enable(self._uffd)
                mappings = write_protection.private_mappings(pid)
                failed = write_protection.register(self._uffd, mappings)
            except OSError as error:
                raise TrackingUnavailable(f"process {pid}: {error.strerror}") from error
            except ProcError as error:
                raise TrackingUnavailable(f"process {pid}: {error}") from error
            if mappings and failed == len(mappings):
                raise TrackingUnavailable(
                    f"process {pid}: its memory is watched by another userfaultfd"
                )
            undo.pop_all()

    def ended(self) -> bool:
        """Return whether the process has ended; its pid may be another process's by now."""
        return bool(ready(self._pidfd, timeout_s=0))

    def written(self) -> list[Range]:
        """Return the pages written since the last call, and protect them again.

        The first call returns all pages with content; later ones also those of new mappings. Raises
        OSError and ProcError.
        """
        write_protection.register(self._uffd, write_protection.private_mappings(self.pid))
        return write_protection.scan_written(self.pid)

    def close(self) -> None:
        os.close(self._uffd)
        os.close(self._pidfd)


def written_at_last(pid: int) -> list[Range]:
    """Return the addresses in a frozen process that may have been written since the last `written`.

    For a process that is not tracked, these are all addresses. No page is protected. Raises
    OSError.
    """
    return write_protection.scan_unprotected(pid)


def reads_directly(pid: int) -> bool:
    """Return whether a process has a file open with O_DIRECT (proc(5), fdinfo).

    Such writes cannot be tracked. A device writes what is read from it into pages that were mapped
    writable when the read began. It also writes to a page that was protected meanwhile, without a
    fault that would show the write. Raises OSError and ProcError.
    """
    directory = proc.path(pid, "fdinfo")
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):
            if (proc.number(f"{directory}/{name}", "flags", base=8) or 0) & os.O_DIRECT:
                return True
    return False


def virtual_pid(pid: int) -> int:
    """Return a process's pid in its own pid namespace, by which images are named.

    Raises TrackingUnavailable if the kernel does not report it, OSError and ProcError.
    """
    found = processes.virtual_pid(pid)
    if found is None:
        raise TrackingUnavailable(f"process {pid} has no NSpid")
    return found


def _inject(pid: int) -> tuple[int, int]:
    """Return (userfaultfd of a process, microseconds that its thread was stopped).

    Raises TrackingUnavailable. After INJECT_TIMEOUT_S that is also raised while the injector still
    waits for the thread: it may have to give the thread its registers back, so it is never killed.
    It ends by itself when the thread has run again.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            argv = [
                sys.executable,
                "-IS",
                str(Path(inject.__file__)),
                str(pid),
                str(theirs.fileno()),
            ]
            child = run.start(argv, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL)
        reaper = Worker("injector", child.wait)
        ours.settimeout(INJECT_TIMEOUT_S)
        try:
            text, fds, _, _ = socket.recv_fds(ours, 4096, 1)
        except TimeoutError as error:
            raise TrackingUnavailable(f"process {pid}: its thread does not run") from error
    reaper.wait()
    answer = json.loads(text or b'{"error": "the injector ended without a word"}')
    if not fds:
        raise TrackingUnavailable(f"process {pid}: {answer.get('error', 'no descriptor came')}")
    return fds[0], answer["stopped_us"]
