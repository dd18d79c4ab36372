"""The one door to the C library: system calls for which Python's standard library has no function.

A function here raises OSError with the system call's own error number. Lone programs
(checkpoint/files/enclose.py, checkpoint/criu/shim.py, checkpoint/memory/tracking/inject.py and
checkpoint/engines/docker/oci_wrapper.py) run without this package and call the C library
themselves.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

#: setns(2), prctl(2), mlockall(2)
CLONE_NEWNET = 1 << 30
PR_SET_DUMPABLE = 4
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
#: include/uapi/linux/falloc.h, include/uapi/linux/userfaultfd.h
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 0x01, 0x02
UFFD_USER_MODE_ONLY = 1
#: System calls without a wrapper in every C library. The number of userfaultfd(2) is that of
#: x86_64; the others are the same on all architectures.
SYS_USERFAULTFD = ctypes.c_long(323)
SYS_OPENAT2, SYS_PIDFD_GETFD = ctypes.c_long(437), ctypes.c_long(438)

#: include/uapi/linux/fcntl.h, include/linux/exportfs.h, include/uapi/linux/stat.h
AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_HANDLE_FID = -100, 0x100, 0x200
MAX_HANDLE_SZ = 128
STATX_MNT_ID_UNIQUE, STATX_ATTR_MOUNT_ROOT = 0x4000, 0x2000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.syscall.restype = ctypes.c_long


def setns(fd: int, kind: int) -> None:
    """Move the calling thread to the namespace that `fd` refers to; `kind` is a CLONE_NEW* flag."""
    _checked(_libc.setns(fd, kind), "setns")


def set_undumpable() -> None:
    """Make the calling process "not dumpable" until it calls execve(2) (PR_SET_DUMPABLE)."""
    _checked(_libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def lock_memory() -> None:
    """Lock the pages of the calling process in RAM, now and later, each from its first use on.

    Memory that is only reserved, such as a thread's stack, takes no RAM (MCL_ONFAULT).
    """
    _checked(_libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT), "mlockall")


def punch_hole(fd: int, offset: int, size_bytes: int) -> None:
    """Free `size_bytes` of a file from `offset` on, which read as zeros afterwards (fallocate(2)).

    The size of the file does not change.
    """
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    _checked(_libc.fallocate(fd, mode, offset, size_bytes), "fallocate")


def inotify_init(flags: int) -> int:
    """Return the descriptor of a new inotify instance (inotify_init1(2))."""
    return _checked(_libc.inotify_init1(flags), "inotify_init1")


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch `path` for the events in `mask`; return the number of the watch."""
    return _checked(_libc.inotify_add_watch(fd, os.fsencode(path), mask), path)


def openat2(directory: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open `path`, relative to the descriptor `directory`, by openat2(2).

    `resolve` are RESOLVE_* flags of include/uapi/linux/openat2.h. Returns a descriptor that is
    closed on exec.
    """
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    size = ctypes.c_size_t(len(how))
    return _checked(_libc.syscall(SYS_OPENAT2, directory, os.fsencode(path), how, size), path)


def file_handle(path: Path) -> str:
    """Return the file handle of what is at `path` as text, or "" if its file system has none.

    A symlink at the end is not followed (name_to_handle_at(2)). Raises OSError.
    """
    for flags in (AT_HANDLE_FID, 0):  # EINVAL before Linux 6.6
        buffer, mount = ctypes.create_string_buffer(8 + MAX_HANDLE_SZ), ctypes.c_int()
        struct.pack_into("=I", buffer, 0, MAX_HANDLE_SZ)
        arguments = (AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(mount), flags)
        try:
            _checked(_libc.name_to_handle_at(*arguments), str(path))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EOVERFLOW):
                raise
            continue
        size, kind = struct.unpack_from("=Ii", buffer)
        return f"{kind:x}-{buffer.raw[8 : 8 + size].hex()}"
    return ""


def unique_mount_id(path: Path) -> str:
    """Return the id of the mount that `path` is the root of, which the kernel gives only once.

    Returns "" if the path is no mount, or before Linux 6.8 (statx(2)). Raises OSError.
    """
    buffer = ctypes.create_string_buffer(256)
    arguments = (AT_FDCWD, os.fsencode(path), AT_SYMLINK_NOFOLLOW, STATX_MNT_ID_UNIQUE, buffer)
    _checked(_libc.statx(*arguments), str(path))
    (mask,), (attributes,) = struct.unpack_from("=I", buffer), struct.unpack_from("=Q", buffer, 8)
    if not mask & STATX_MNT_ID_UNIQUE or not attributes & STATX_ATTR_MOUNT_ROOT:
        return ""
    return f"mount {struct.unpack_from('=Q', buffer, 0x90)[0]}"


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """Return a duplicate of another process's descriptor `fd`, closed on exec (pidfd_getfd(2))."""
    return _checked(_libc.syscall(SYS_PIDFD_GETFD, pidfd, fd, 0), "pidfd_getfd")


def userfaultfd(flags: int) -> int:
    """Return a userfaultfd of the calling process, for faults in user mode (userfaultfd(2))."""
    return _checked(_libc.syscall(SYS_USERFAULTFD, flags | UFFD_USER_MODE_ONLY), "userfaultfd")


def _checked(result: int, what: str) -> int:
    """Return a system call's result. Raises OSError about `what` if the result is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return int(result)
