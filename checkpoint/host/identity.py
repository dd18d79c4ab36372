"""Identities of the things that a migration makes: undo removes by identity, never by name alone.

Between the making of a thing and its removal, somebody else may remove it and make another thing of
the same name. Where there is only a name (a path, a network link, a volume), the identity of the
thing is taken right after it is made, and compared right before it is removed. An engine's own ids
need no identity, because an id never comes to mean another thing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Identity(Protocol):
    """One thing on this host, whatever its name comes to mean later."""

    def is_same(self) -> bool:
        """Return whether the name still means that thing. False if nothing has the name."""


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
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return os.path.samestat(os.fstat(self._fd), os.lstat(self.path))
        return False


class LinkIdentity:
    """A network link by its index, which the kernel does not reuse (netdevice(7), SIOCGIFINDEX)."""

    def __init__(self, name: str) -> None:
        """Take the identity of the link `name` in this process's network namespace.

        Raises OSError when there is no such link.
        """
        self.name, self._index = name, socket.if_nametoindex(name)

    def is_same(self) -> bool:
        with contextlib.suppress(OSError):
            return socket.if_nametoindex(self.name) == self._index
        return False


class RecordIdentity:
    """An engine's record of a thing that has a name and no id, such as a volume's time of creation.

    `look` returns the present record, or None if the thing does not exist.
    """

    def __init__(self, look: Callable[[], object]) -> None:
        self._look, self._seen = look, look()

    def is_same(self) -> bool:
        return self._seen is not None and self._look() == self._seen


def remove_empty(identity: PathIdentity) -> None:
    """Remove a directory if it is empty, unless its path names another one by now."""
    if identity.is_same():
        with contextlib.suppress(OSError):
            identity.path.rmdir()
