"""The one door to trees that a container can write: access below a directory, never outside it.

A container may put a symlink where a directory was a moment ago. Therefore a tree is held by a
descriptor of its root, opened once. Every path is looked up from that descriptor by openat2(2),
which refuses `..` out of the tree, any symlink on the way, and other mounts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

from checkpoint.host import proc, whole
from checkpoint.host.identity import PathIdentity, PathRecord, remove_empty
from checkpoint.host.kernel import openat2

#: openat2(2), include/uapi/linux/openat2.h
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = (
    1,
    2,
    4,
    8,
    16,
)
STRICT = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV

DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
#: Errors of a path that leads to no file: no such name, or a file or a symlink on the way.
NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
#: Errors of a path that leads to no file of the tree: none of these, or something is mounted there.
NOT_IN_TREE = NOT_THERE | {errno.EXDEV}
#: Errors of a file without attributes (listxattr(2)), or without one that was just listed.
NO_ATTRIBUTES = {errno.ENOTSUP, errno.ENODATA}

#: Extended attributes (xattr(7)) as (name, value), ACLs among them.
Attributes = tuple[tuple[str, bytes], ...]
#: (path of a directory, its descriptor, [(path of an entry, status of the entry itself)])
Directory = tuple[str, int, list[tuple[str, os.stat_result]]]


@contextlib.contextmanager
def passed_over(errors: Set[int]) -> Iterator[None]:
    """End the block without an error when it raises an OSError with one of these numbers."""
    try:
        yield
    except OSError as error:
        if error.errno not in errors:
            raise


def gone_is_well() -> contextlib.AbstractContextManager[None]:
    """End the block without an error when a path leads to no file (NOT_THERE)."""
    return passed_over(NOT_THERE)


def attributes(file: int | str) -> Attributes:
    """Return the extended attributes of a file, sorted by name.

    `file` is a descriptor, or a path that no container can change. Returns () if the file is gone,
    or its file system has no attributes. Raises OSError.
    """
    found = []
    with passed_over(NOT_THERE | NO_ATTRIBUTES):
        for name in sorted(os.listxattr(file)):
            with passed_over(NO_ATTRIBUTES):
                found.append((name, os.getxattr(file, name)))
    return tuple(found)


def is_somebodys_root(directory: Path) -> bool:
    """Return whether a process of this host has `directory` as its root directory.

    Two containers may share one rootfs, so that it may be in use when one of them has gone.
    """
    if not directory.exists():
        return False
    here = directory.stat()
    for pid in proc.pids():
        with contextlib.suppress(OSError):  # the process has ended, or is about to
            if os.path.samestat(os.stat(proc.path(pid, "root")), here):
                return True
    return False


class TreeRoot:
    """A tree of files, held by a descriptor of its root directory (`fd`).

    Paths are relative to the root; "" is the root itself. Use as a context, or close.
    """

    def __init__(self, root: Path | str | int) -> None:
        """Open the root: a path that no container can change, or a descriptor to take over.

        Raises OSError.
        """
        self.fd = root if isinstance(root, int) else os.open(root, DIRECTORY)

    @classmethod
    def mounted(cls, pid: int, path: str, device: int) -> TreeRoot:
        """Open the tree that a process sees mounted at `path`; `device` is its st_dev.

        Symlinks in `path` are resolved within the process's root. A magic link (proc_pid_fd(5))
        could lead out of that root, and is refused. Raises OSError, and FileNotFoundError if the
        tree at `path` is of another device.
        """
        inside = os.open(proc.path(pid, "root"), DIRECTORY)
        try:
            tree = cls(openat2(inside, path, DIRECTORY, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS))
        finally:
            os.close(inside)
        if os.fstat(tree.fd).st_dev != device:
            tree.close()
            raise FileNotFoundError(errno.ENOENT, "something else is mounted there", path)
        return tree

    def close(self) -> None:
        """Close the descriptor of the root."""
        os.close(self.fd)

    def __enter__(self) -> TreeRoot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, path: str, flags: int) -> int:
        """Open the file at `path` and return its descriptor. Raises OSError.

        With O_PATH | O_NOFOLLOW in `flags`, the descriptor may be that of a symlink.
        """
        return openat2(self.fd, path or ".", flags, STRICT)

    @contextlib.contextmanager
    def directory(self, path: str) -> Iterator[int]:
        """Open a directory for the length of the block; yield its descriptor. Raises OSError."""
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    def stat(self, path: str) -> os.stat_result:
        """Return the status of a file, or of a symlink itself. Raises OSError."""
        fd = self.open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def create(self, path: str, content: bytes) -> None:
        """Create a file with this content that only root may read.

        Raises FileExistsError if there is a file at `path` already, and OSError.
        """
        fd = openat2(self.fd, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, STRICT, 0o600)
        try:
            whole.write(fd, content)
        finally:
            os.close(fd)

    def read(self, path: str, most: int) -> bytes:
        """Return up to `most` bytes of a regular file, b"" of any other file. Raises OSError."""
        fd = self.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return b""
            return os.read(fd, most)  # short result: the file is shorter
        finally:
            os.close(fd)

    def exists(self, path: str) -> bool:
        """Return whether there is a file at `path`, or a symlink, wherever the symlink leads.

        Raises OSError if that cannot be told.
        """
        with passed_over(NOT_IN_TREE):
            self.stat(path)
            return True
        return False

    def attributes(self, path: str) -> Attributes:
        """Return the extended attributes of a file, or of a symlink itself; () if it is gone.

        Raises OSError.
        """
        with passed_over(NOT_IN_TREE):
            fd = self.open(path, os.O_PATH | os.O_NOFOLLOW)
            try:
                # By a path, because flistxattr(2) fails on an O_PATH descriptor (open(2)).
                return attributes(proc.path("self", "fd", fd))
            finally:
                os.close(fd)
        return ()

    def walk(self, start: str = "") -> Iterator[Directory]:
        """Yield `start` and each directory below it, parents first, on the root's file system only.

        The entries of a directory come with it (Directory); an entry on which something is mounted
        is listed, but not entered. The descriptor is closed at the next step of the walk. A path
        that is no directory any more when its turn comes is left out. Raises OSError.
        """
        device = os.fstat(self.fd).st_dev
        pending = [start]
        while pending:
            path = pending.pop()
            try:
                fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                if error.errno not in NOT_IN_TREE:
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
        """Remove files, and directories with their content. A path that is gone is ignored.

        In `paths`, directories come before what is in them. Raises OSError for a file that cannot
        be removed, such as a mount point: neither a mount in the tree nor its content is removed.
        """
        for path in reversed(list(paths)):
            with self._mounts_told(path), gone_is_well():
                self._remove(path)

    def empty(self) -> None:
        """Remove everything in the tree, but not its root. Raises OSError as `remove` does."""
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
        """Say what an EBUSY raised in the block means: `path` is a mount point, or holds one."""
        try:
            yield
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise OSError(errno.EBUSY, "something is mounted there", path) from error
            raise

    def set_mtime(self, path: str, mtime_ns: int) -> None:
        """Set the time of modification of a file, in ns; ignore a file that is gone.

        The file may have come and gone while others were copied. Raises OSError.
        """
        if not path:
            with self.directory(path) as root:
                os.utime(root, ns=(mtime_ns, mtime_ns))
            return
        with gone_is_well(), self._parent(path) as (directory, name):
            os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=False)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """Yield (descriptor of the directory that holds the file, name of the file in it).

        The descriptor is closed after the block. Raises PermissionError for a path that cannot be
        the name of a file in the tree, and OSError.
        """
        above, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            raise PermissionError(f"{path!r} names no file")
        with self.directory(above) as fd:
            yield fd, name


def empty_tree(identity: PathIdentity | PathRecord) -> None:
    """Remove the content of a directory, unless another directory has its path by now.

    Raises OSError as TreeRoot.remove does.
    """
    if identity.is_same():
        with TreeRoot(identity.path) as root:
            root.empty()


def remove_tree(identity: PathIdentity | PathRecord) -> None:
    """Remove a directory with its content, unless another directory has its path by now.

    Raises OSError as TreeRoot.remove does. A directory that has content again is left.
    """
    empty_tree(identity)
    remove_empty(identity)
