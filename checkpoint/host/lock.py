"""One task at a time has a container of this host: a move out, a move in, or a checkpoint.

A lock is flock(2) on a file of DIRECTORY, so the kernel releases it when its owner ends, however that ends. Neither the
age of a file nor a process number in it decides anything. The file says who holds the lock, for whoever is refused.

Files are made, locked, written and removed under the lock of the directory itself, which is held for about a
millisecond. Hence no file is removed between another process's open(2) and flock(2), what a file says is complete, and
files that killed owners left behind can be removed by the next taker of any lock.
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
from checkpoint.host import proc
from checkpoint.images.directory import MODE, RUN

DIRECTORY = RUN / "locks"
#: A file name has at most 255 bytes (NAME_MAX, limits.h).
LONGEST_NAME = 200
#: A bound for when a process was stopped while it held the directory's lock.
DIRECTORY_TIMEOUT_S, LOOK_AGAIN_S = 1.0, 0.002


def name_key(engine: str, name: str) -> str:
    """The key of a container by its engine's name for it, on the host that has it and on the one that takes it in."""
    return f"{engine}-{_short(name)}"


def volume_key(engine: str, name: str) -> str:
    """The key of an engine's volume on the host that takes it in: one container at a time brings its content."""
    return f"volume-{engine}-{_short(name)}"


def process_key(pid: int) -> str:
    """The key of a container by its init, for an OCI runtime knows an engine's container by another name.

    The start time tells the process from an earlier one of that number. Raises OSError when there is no such
    process, and ProcError.
    """
    return f"process-{pid}-{proc.start_ticks(Path(f'/proc/{pid}/stat').read_bytes())}"


def holder_text(task: str, source: str, target: str) -> str:
    """The words of this process for its locks: which task, from where, to where, since when, which process."""
    since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{task} from {source} to {target}, since {since}, process {os.getpid()}"


@contextlib.contextmanager
def locked(keys: Sequence[str], holder: str) -> Iterator[None]:
    """Hold the locks of all these keys for the length of the block; `holder` is told to whoever is refused.

    Raises ContainerLocked, at once and holding none, when one of them is not free; TimeoutError when DIRECTORY is not.
    """
    held: dict[int, Path] = {}
    with _alone():
        _sweep()
        try:
            for path in (DIRECTORY / key for key in keys):
                held[_take(path)] = path
                path.write_text(holder)
        except BaseException:
            _release(held)
            raise
    try:
        yield
    finally:
        with _alone():
            _release(held)


def holder_of(key: str) -> str | None:
    """The words of whoever holds the lock of a key; None when it is free."""
    if not (DIRECTORY / key).exists():
        return None
    with _alone():
        try:
            fd = _take(DIRECTORY / key)
        except ContainerLocked as error:
            return error.holder
        _release({fd: DIRECTORY / key})
    return None


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """No other process changes what is in DIRECTORY during the block."""
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
    """Remove the files whose owners are dead."""
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
    for fd, path in held.items():
        path.unlink(missing_ok=True)
        _close(fd)


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _close(fd: int) -> None:
    """Unlock, then close: a child on its way from fork(2) to execve(2) shares the lock until it has closed its copy."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)
