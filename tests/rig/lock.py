"""One command at a time changes a rig.

The lock is inherited by the rig's own steps (process.run(keep_lock=True)) and by a node until it has entered its
cgroups (node_init.py). So a `down` that follows a killed `up` waits for what that left running, and then finds it all.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tests.rig.errors import RigError

PATIENCE_S = 60.0
POLL_S = 0.02


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock; yields its descriptor, which is inheritable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        os.set_inheritable(descriptor, True)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # `down` removes the file: a lock on a removed file excludes nobody.
            if _is_still(path, descriptor):
                break
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise RigError(f"another command has held {path} for {PATIENCE_S:.0f} s") from None
            time.sleep(POLL_S)
        os.close(descriptor)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
