"""Which pages of a container's processes changed while they run."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from checkpoint.errors import ProcError, TrackingUnavailable
from checkpoint.host import proc, run
from checkpoint.host.ready import ready
from checkpoint.memory import inject, uffd
from checkpoint.memory.ranges import Range

INJECT_TIMEOUT_S = 20.0


class Tracker:
    """Write tracking of one process. `close` leaves it as it was: closing the descriptor unregisters all."""

    def __init__(self, pid: int) -> None:
        """Raises TrackingUnavailable with the reason; the process goes on untracked."""
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
                uffd.enable(self._uffd)
                mappings = uffd.private_mappings(pid)
                failed = uffd.register(self._uffd, mappings)
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
        """Whether the process is gone; its number may be another's by now."""
        return bool(ready(self._pidfd, timeout_s=0))

    def written(self) -> list[Range]:
        """Pages written since the last call (at the first: all with content), protected again."""
        uffd.register(self._uffd, uffd.private_mappings(self.pid))
        return uffd.scan_written(self.pid)

    def close(self) -> None:
        os.close(self._uffd)
        os.close(self._pidfd)


def written_at_last(pid: int) -> list[Range]:
    """Like Tracker.written for a frozen process, tracked or not; protects nothing."""
    return uffd.scan_unprotected(pid)


def reads_directly(pid: int) -> bool:
    """Whether a process has a file open with O_DIRECT (proc(5), fdinfo).

    A device writes what is read from it into pages that were mapped writable when the read began. One that was
    protected meanwhile is written all the same, without a fault that would show it.
    """
    directory = f"/proc/{pid}/fdinfo"
    for name in os.listdir(directory):
        with contextlib.suppress(FileNotFoundError):
            if (proc.number(f"{directory}/{name}", "flags", base=8) or 0) & os.O_DIRECT:
                return True
    return False


def virtual_pid(pid: int) -> int:
    """The process's number in its own pid namespace, which names its images (NSpid, proc(5))."""
    found = proc.number(f"/proc/{pid}/status", "NSpid")
    if found is None:
        raise TrackingUnavailable(f"process {pid} has no NSpid")
    return found


def _inject(pid: int) -> tuple[int, int]:
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
        ours.settimeout(INJECT_TIMEOUT_S)
        try:
            text, fds, _, _ = socket.recv_fds(ours, 4096, 1)
        except TimeoutError:
            text, fds = b"", []
        finally:
            child.wait()
    answer = json.loads(text or b'{"error": "the injector ended without a word"}')
    if not fds:
        raise TrackingUnavailable(f"process {pid}: {answer.get('error', 'no descriptor came')}")
    return fds[0], answer["stopped_us"]
