"""Identities of the things that a migration makes: undo removes by identity, never by name alone.

Between the making of a thing and its removal, somebody else may remove it and make another thing of
the same name. Where there is only a name (a path, a network link, a volume), the identity of the
thing is taken right after it is made, and compared right before it is removed. An engine's own ids
need no identity, because an id never comes to mean another thing.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path
from typing import NamedTuple

from checkpoint.host import kernel


class PathIdentity:
    """The file, directory or mount that a path names when the identity is taken.

    A descriptor (open(2), O_PATH) holds the file open. Otherwise the kernel could give the inode
    number of a removed file to the next one, and the two could not be told apart. `close` closes
    the descriptor; so does the end of this object.
    """

    def __init__(self, path: Path) -> None:
        """Take the identity of `path`, without following a symlink at its end.

        Raises OSError when there is nothing at `path`.
        """
        self.path = path
        self._fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self._fd)

    def is_same(self) -> bool:
        """Return whether the path still names that file. False if nothing is there."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return os.path.samestat(os.fstat(self._fd), os.lstat(self.path))
        return False


class PathRecord(NamedTuple):
    """The identity of what a path names, in a form that outlives this process.

    `unique` is the file handle (name_to_handle_at(2)): it has the inode's generation, so that no
    later file has it, on this boot or another. A mount whose file system has no file handles is
    known by its unique id (statx(2), STATX_MNT_ID_UNIQUE), which is given once in a boot. Where the
    kernel offers neither, `unique` is "", and the record holds only as long as a PathIdentity keeps
    the inode from being freed. `device` counts only then, because it may change at a boot.
    """

    path: str
    device: int
    inode: int
    unique: str

    @classmethod
    def of(cls, path: Path) -> PathRecord:
        """Return the record of what is at `path`, without following a symlink at its end.

        Raises OSError when there is nothing.
        """
        found = os.lstat(path)
        unique = kernel.file_handle(path) or kernel.unique_mount_id(path)
        return cls(str(path), 0 if unique else found.st_dev, found.st_ino, unique)

    def is_same(self) -> bool:
        """Return whether the path still names that file. False if nothing is there."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return PathRecord.of(Path(self.path)) == self
        return False


def remove_empty(identity: PathIdentity | PathRecord) -> None:
    """Remove a directory if it is empty, unless its path names another one by now."""
    if identity.is_same():
        with contextlib.suppress(OSError):
            Path(identity.path).rmdir()
