"""Which pages of a container's processes changed, and what is in them, while they run."""

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from checkpoint.errors import ProcError, TrackingUnavailable
from checkpoint.host import proc, run
from checkpoint.host.ready import ready
from checkpoint.memory import inject, uffd
from checkpoint.memory.ranges import Range
from checkpoint.memory.uffd import PAGE_SIZE

INJECT_TIMEOUT_S = 20.0
READ_BYTES = 1 << 20
IOV_MAX = 1024
#: (start address, bytes of whole pages)
Chunk = tuple[int, memoryview]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_readv.argtypes = [
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
]


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
                    raise TrackingUnavailable(f"process {pid}: it has a file open for direct I/O, which is not seen")
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
                raise TrackingUnavailable(f"process {pid}: its memory is watched by another userfaultfd")
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


def read_pages(pid: int, ranges: list[Range]) -> Iterator[list[Chunk]]:
    """The content of ranges in batches of up to 1 MiB, by process_vm_readv(2).

    Pages that went away meanwhile are left out. A batch is valid until the next one is asked for.
    """
    buffer = bytearray(READ_BYTES)
    view = memoryview(buffer)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    for batch in _batches(ranges):
        total = sum(end - start for start, end in batch)
        remote = array.array("Q", [word for start, end in batch for word in (start, end - start)])
        local = array.array("Q", [address, total])
        got = _libc.process_vm_readv(pid, local.buffer_info()[0], 1, remote.buffer_info()[0], len(batch), 0)
        if got == total:
            yield list(_slices(batch, view))
        else:
            yield list(_one_by_one(pid, batch))


def _batches(ranges: list[Range]) -> Iterator[list[Range]]:
    batch: list[Range] = []
    room = READ_BYTES
    for start, end in ranges:
        while start < end:
            piece = min(end - start, room)
            batch.append((start, start + piece))
            start += piece
            room -= piece
            if not room or len(batch) == IOV_MAX:
                yield batch
                batch, room = [], READ_BYTES
    if batch:
        yield batch


def _slices(batch: list[Range], view: memoryview) -> Iterator[Chunk]:
    offset = 0
    for start, end in batch:
        yield start, view[offset : offset + end - start]
        offset += end - start


def _one_by_one(pid: int, batch: list[Range]) -> Iterator[Chunk]:
    """/proc/PID/mem also reads pages a process has made unreadable for itself."""
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for start, end in batch:
            for page in range(start, end, PAGE_SIZE):
                with contextlib.suppress(OSError):
                    memory.seek(page)
                    data = memory.read(PAGE_SIZE)
                    if len(data) == PAGE_SIZE:
                        yield page, memoryview(data)


def _inject(pid: int) -> tuple[int, int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            argv = [sys.executable, "-IS", str(Path(inject.__file__)), str(pid), str(theirs.fileno())]
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
