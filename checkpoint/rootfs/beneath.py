"""Open, look at and change what is below a directory, and nothing outside it: the one door to a tree of a container's.

A container may put a symlink where a directory was a moment ago. A tree is known by a descriptor of its root, opened
once; every path is looked up from there by openat2(2), which refuses `..` out of the tree, any symlink on the way, and
other mounts.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from checkpoint.host import whole
from checkpoint.host.identity import PathIdentity, remove_empty

#: openat2(2), <linux/openat2.h>; the same number on all architectures.
OPENAT2 = 437
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = (
    1,
    2,
    4,
    8,
    16,
)
STRICT = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV

DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
#: Why nothing is found by a path: there is nothing, or a file or a symlink is on the way.
NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}

#: Extended attributes (xattr(7)) by name; ACLs are such.
Attributes = tuple[tuple[str, bytes], ...]
#: (path, descriptor, [(path of a file in it, what it is)])
Directory = tuple[str, int, list[tuple[str, os.stat_result]]]

_libc = ctypes.CDLL(None, use_errno=True)


def openat2(directory: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """The descriptor that openat2(2) returns, closed on exec. Raises OSError."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    fd = _libc.syscall(
        ctypes.c_long(OPENAT2), directory, os.fsencode(path), how, ctypes.c_size_t(len(how))
    )
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int(fd)


@contextlib.contextmanager
def gone_is_well() -> Iterator[None]:
    """What is not there any more is no error in the block."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise


def attributes(file: int | str) -> Attributes:
    """Those of a file, by its descriptor or by a path that is safe; none where there cannot be any."""
    with contextlib.suppress(OSError):
        return tuple((name, os.getxattr(file, name)) for name in sorted(os.listxattr(file)))
    return ()


def is_somebodys_root(directory: Path) -> bool:
    """Whether a process of this host has the directory for its root: two containers may share one rootfs."""
    if not directory.exists():
        return False
    here = directory.stat()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended, or is about to
            if os.path.samestat(os.stat(f"/proc/{name}/root"), here):
                return True
    return False


class TreeRoot:
    """A tree by its root. Paths are relative to the root, "" is the root itself. Use as a context, or close it."""

    def __init__(self, root: Path | str | int) -> None:
        """`root` is a path that no container can change, or a descriptor, then the tree's own. Raises OSError."""
        self.fd = root if isinstance(root, int) else os.open(root, DIRECTORY)

    @classmethod
    def mounted(cls, pid: int, path: str, device: int) -> TreeRoot:
        """What a process sees mounted at a path. Raises OSError; FileNotFoundError, too, if it is of another device.

        Symlinks lead nowhere else than in the process's root. A magic link (proc_pid_fd(5)) would, and is refused.
        """
        inside = os.open(f"/proc/{pid}/root", DIRECTORY)
        try:
            tree = cls(openat2(inside, path, DIRECTORY, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS))
        finally:
            os.close(inside)
        if os.fstat(tree.fd).st_dev != device:
            tree.close()
            raise FileNotFoundError(errno.ENOENT, "something else is mounted there", path)
        return tree

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)

    def __enter__(self) -> TreeRoot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, path: str, flags: int) -> int:
        """A descriptor of what is there. With O_PATH | O_NOFOLLOW it may be a symlink. Raises OSError."""
        return openat2(self.fd, path or ".", flags, STRICT)

    @contextlib.contextmanager
    def directory(self, path: str) -> Iterator[int]:
        """A descriptor of a directory, for the length of the block. Raises OSError."""
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    def stat(self, path: str) -> os.stat_result:
        """Of a file, or of a symlink itself. Raises OSError."""
        fd = self.open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def create(self, path: str, content: bytes) -> None:
        """Make a file that only root may read. Raises OSError, FileExistsError for one."""
        fd = openat2(self.fd, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, STRICT, 0o600)
        try:
            whole.write(fd, content)
        finally:
            os.close(fd)

    def read(self, path: str, most: int) -> bytes:
        """Up to so many bytes of a regular file; nothing of anything else. Raises OSError."""
        fd = self.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return b""
            return os.read(fd, most)  # short result: a file that is shorter
        finally:
            os.close(fd)

    def exists(self, path: str) -> bool:
        """Whether there is a file of that name, or a symlink, whatever that leads to."""
        with contextlib.suppress(OSError):
            self.stat(path)
            return True
        return False

    def attributes(self, path: str) -> Attributes:
        """The extended attributes of a file, or of a symlink itself; none if it is not there."""
        with contextlib.suppress(OSError):
            fd = self.open(path, os.O_PATH | os.O_NOFOLLOW)
            try:
                return attributes(f"/proc/self/fd/{fd}")  # such a descriptor cannot be asked itself
            finally:
                os.close(fd)
        return ()

    def walk(self, start: str = "") -> Iterator[Directory]:
        """Each directory below `start`, that one first, as far as they are of the root's file system.

        What is no directory any more when its turn comes is left out.
        """
        device = os.fstat(self.fd).st_dev
        pending = [start]
        while pending:
            path = pending.pop()
            try:
                fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                if error.errno not in NOT_THERE | {errno.EXDEV}:  # or something was mounted there
                    raise
                continue
            try:
                entries = []
                with os.scandir(fd) as found:
                    for entry in found:
                        with contextlib.suppress(FileNotFoundError):
                            state = entry.stat(follow_symlinks=False)
                            inner = f"{path}/{entry.name}" if path else entry.name
                            entries.append((inner, state))
                            if stat.S_ISDIR(state.st_mode) and state.st_dev == device:
                                pending.append(inner)
                yield path, fd, entries
            finally:
                os.close(fd)

    def remove(self, paths: Iterable[str]) -> None:
        """Files, and directories with all in them; parents come before what is in them. What is gone is no error.

        Raises OSError for what cannot be removed: what is mounted in the tree is not, nor anything in it.
        """
        for path in reversed(list(paths)):
            with self._mounts_told(path), gone_is_well():
                self._remove(path)

    def empty(self) -> None:
        """Likewise remove all that is in it."""
        self.remove([path for path, _ in next(self.walk())[2]])

    def _remove(self, path: str) -> None:
        with self._parent(path) as (above, name):
            if not stat.S_ISDIR(os.lstat(name, dir_fd=above).st_mode):
                os.unlink(name, dir_fd=above)
                return
        directories = [path]
        for _, fd, entries in self.walk(path):
            for inner, state in entries:
                if stat.S_ISDIR(state.st_mode):
                    directories.append(inner)
                else:
                    with gone_is_well():
                        os.unlink(inner.rpartition("/")[2], dir_fd=fd)
        for directory in reversed(directories):
            with gone_is_well(), self._parent(directory) as (above, name):
                os.rmdir(name, dir_fd=above)

    @contextlib.contextmanager
    def _mounts_told(self, path: str) -> Iterator[None]:
        """The kernel's word for a mount point that is to be removed is that it is busy."""
        try:
            yield
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise OSError(errno.EBUSY, "something is mounted there", path) from error
            raise

    def set_mtime(self, path: str, mtime_ns: int) -> None:
        """Of a file that may have come and gone while others were copied."""
        with gone_is_well(), self._parent(path) as (directory, name):
            os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=False)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """(descriptor of the directory that holds it, its name in there)."""
        above, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            raise PermissionError(f"{path!r} names no file")
        with self.directory(above) as fd:
            yield fd, name


def empty_tree(identity: PathIdentity) -> None:
    """Remove what is in a directory, unless another one has its path by now. Raises OSError as TreeRoot.remove."""
    if identity.is_same():
        with TreeRoot(identity.path) as root:
            root.empty()


def remove_tree(identity: PathIdentity) -> None:
    """Remove a directory with what is in it, likewise."""
    empty_tree(identity)
    remove_empty(identity)
