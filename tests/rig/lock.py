"""The lock of a rig: one command at a time changes it.

The rig's own steps inherit the lock (process.run(keep_lock=True)), and so does a node until it has
entered its cgroups (node_init.py). So a `down` that follows a killed `up` waits for what `up` left
running, and then finds all of it.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from tests.rig.wait import until

#: The descriptor of the lock that this thread holds; other threads may hold those of other rigs.
_HELD: ContextVar[int] = ContextVar("held")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock during a `with` block, and yield its descriptor, which is inheritable."""
    descriptor = until(lambda: _try(path), f"another command to release {path}")
    token = _HELD.set(descriptor)
    try:
        yield descriptor
    finally:
        _HELD.reset(token)
        os.close(descriptor)


def held() -> list[int]:
    """Return the descriptor of the lock that this thread holds, or [] if it holds none."""
    descriptor = _HELD.get(None)
    return [] if descriptor is None else [descriptor]


def _try(path: Path) -> int | None:
    """Return the lock's descriptor, which is never 0; None if another process holds the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    # `down` removes the file, and a lock on a removed file excludes nobody.
    if not _is_still(path, descriptor):
        os.close(descriptor)
        return None
    os.set_inheritable(descriptor, True)
    return descriptor


def _is_still(path: Path, descriptor: int) -> bool:
    """Return whether the file at the path is the one that is open."""
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
