"""One command at a time changes a rig.

The lock is inherited by the rig's own steps (process.run(keep_lock=True)) and by a node until it has entered its
cgroups (node_init.py). So a `down` that follows a killed `up` waits for what that left running, and then finds it all.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from tests.rig.wait import until


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock; yields its descriptor, which is inheritable."""
    descriptor = until(lambda: _try(path), f"another command to release {path}")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try(path: Path) -> int | None:
    """The lock's descriptor (above the standard ones, so never 0), or None if another process holds it."""
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
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
