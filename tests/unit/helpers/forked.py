"""The run of a function in a forked child, for what a process cannot undo."""

from __future__ import annotations

import ctypes
import os
import subprocess
import traceback
from collections.abc import Callable

#: unshare(2)
CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000


def forked(body: Callable[[], object], *, unshare: int = 0) -> None:
    """Run `body` in a forked child. Raises AssertionError if `body` fails.

    `unshare` are CLONE_NEW* flags of unshare(2). No mount gets out of a new mount namespace.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if unshare:
                assert ctypes.CDLL(None).unshare(unshare) == 0
            if unshare & CLONE_NEWNS:
                subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            body()
            status = 0
        except BaseException:  # noqa: BLE001  (the parent fails the test)
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
