"""Hole punching: parts of a file are given back to the file system.

The module calls fallocate(2) in the C library, because Python's `os` has no function for it.
"""

from __future__ import annotations

import ctypes
import os

#: include/uapi/linux/falloc.h
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 0x01, 0x02

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def punch(fd: int, offset: int, size_bytes: int) -> None:
    """Free `size_bytes` of a file from `offset` on, which read as zeros afterwards.

    The size of the file does not change. Raises OSError.
    """
    if _libc.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size_bytes) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
