"""Locks on containers of this host: one task at a time has a container.

A task is a migration away from this host, a migration to it, or a checkpoint.

A lock is flock(2) on a file in DIRECTORY, so the kernel releases it when its owner ends, however
the owner ends. Neither the age of a file nor a process number in it decides anything. The file says
who holds the lock, which is reported to a task that is refused.

Files are made, locked, written and removed under the lock of the directory itself, which is held
for about a millisecond. That has three effects: no file is removed between another process's
open(2) and flock(2), the text that is read from a file is complete, and the next process that takes
any lock can remove the files that killed owners left behind.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from checkpoint.errors import ContainerLocked
from checkpoint.host import processes
from checkpoint.host.paths import RUN
from checkpoint.host.ram_directory import MODE

DIRECTORY = RUN / "locks"
#: A file name has at most 255 bytes (NAME_MAX, limits.h).
LONGEST_NAME = 200
#: How long to wait for the directory's lock, whose holder may be stopped, and how often to try it.
DIRECTORY_TIMEOUT_S, LOOK_AGAIN_S = 1.0, 0.002


def name_key(engine: str, name: str) -> str:
    """Return the lock key of a container by the name that its engine gives it.

    The source locks it for the container it has, the target for the container it takes in.
    """
    return f"{engine}-{_short(name)}"


def volume_key(engine: str, name: str) -> str:
    """Return the lock key of an engine's volume on the target.

    Under this lock only one migration at a time brings content for the volume.
    """
    return f"volume-{engine}-{_short(name)}"


def process_key(pid: int) -> str:
    """Return the lock key of a container by the pid of its init.

    Such a key is needed because an OCI runtime knows an engine's container by another name. The
    key has the start time of the process, which tells it from an earlier process of the same pid.
    Raises OSError when there is no such process, and ProcError.
    """
    return f"process-{pid}-{processes.start_ticks(pid)}"


def holder_text(task: str, source: str, target: str) -> str:
    """Return the text that says who holds the locks of this process: task, hosts, time and pid."""
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{task} from {source} to {target}, since {since}, process {os.getpid()}"


class Locks:
    """The locks of one task. `descriptors` hold them, and so does each copy of these."""

    def __init__(self, held: dict[int, Path]) -> None:
        self._held = held

    @property
    def descriptors(self) -> list[int]:
        return list(self._held)

    def leave(self) -> None:
        """Leave the locks to another process, which has copies of the descriptors."""
        while self._held:
            os.close(self._held.popitem()[0])


@contextlib.contextmanager
def locked(keys: Sequence[str], holder: str) -> Iterator[Locks]:
    """Hold the locks of all `keys` during the block, unless they are left, and yield them.

    `holder` is the text that is reported to other tasks that want one of the locks. Raises
    ContainerLocked, at once and without any lock held, when one of the locks is taken. Raises
    TimeoutError when another process keeps DIRECTORY locked for DIRECTORY_TIMEOUT_S.
    """
    held: dict[int, Path] = {}
    with alone():
        _sweep()
        try:
            for path in (DIRECTORY / key for key in keys):
                held[_take(path)] = path
                path.write_text(holder)
        except BaseException:
            _release(held)
            raise
    try:
        yield Locks(held)
    finally:
        _release_alone(held)


def holder_of(key: str) -> str | None:
    """Return the text of the task that holds the lock of a key, or None if the lock is free.

    Raises TimeoutError as `locked` does.
    """
    if not (DIRECTORY / key).exists():
        return None
    with alone():
        try:
            fd = _take(DIRECTORY / key)
        except ContainerLocked as error:
            return error.holder
        _release({fd: DIRECTORY / key})
    return None


def sweep() -> None:
    """Remove the lock files whose owners are dead. Raises OSError, and TimeoutError."""
    with alone():
        _sweep()


def _release_alone(held: dict[int, Path]) -> None:
    """Release locks at the end of a task, whose outcome must not depend on that.

    If DIRECTORY stays locked, the files are left to the next task that takes any lock.
    """
    try:
        with alone():
            _release(held)
    except OSError:
        while held:
            _close(held.popitem()[0])


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold the lock of DIRECTORY, so that no other process changes its files during the block.

    Raises TimeoutError.
    """
    RUN.mkdir(mode=MODE, exist_ok=True)
    DIRECTORY.mkdir(mode=MODE, exist_ok=True)
    fd = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + DIRECTORY_TIMEOUT_S
        while not _flock(fd):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"a process has kept {DIRECTORY} locked for {DIRECTORY_TIMEOUT_S:g} s"
                )
            time.sleep(LOOK_AGAIN_S)
        yield
    finally:
        _close(fd)


def _short(name: str) -> str:
    quoted = quote(name, safe="")
    return quoted if len(quoted) <= LONGEST_NAME else hashlib.sha256(name.encode()).hexdigest()


def _sweep() -> None:
    for name in os.listdir(DIRECTORY):
        with contextlib.suppress(ContainerLocked):
            _release({_take(DIRECTORY / name): DIRECTORY / name})


def _take(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _flock(fd):
        os.close(fd)
        raise ContainerLocked(path.read_text(errors="replace"))
    return fd


def _release(held: dict[int, Path]) -> None:
    """Remove lock files and close their descriptors, each of which leaves `held` first."""
    while held:
        fd, path = held.popitem()
        try:
            path.unlink(missing_ok=True)
        finally:
            _close(fd)


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _close(fd: int) -> None:
    """Unlock a descriptor, then close it.

    Closing alone may leave the file locked: a child between fork(2) and execve(2) has a copy of the
    descriptor, and the lock is released when all copies are closed or any of them is unlocked.
    """
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)
