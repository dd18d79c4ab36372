"""What a move made, told from what has its name: undo removes by identity, never by name alone.

Between making something and removing it again, somebody else may have removed it and made another of that name. An
engine's own ids name one thing for ever and need nothing from here. Where there is only a name (a path, a link, a
volume), its identity is taken right after the making and looked at again right before the removal.
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
    """One thing on this host, whatever its name comes to mean."""

    def is_same(self) -> bool:
        """Whether the name still means that thing. False also when nothing has the name."""


class PathIdentity:
    """The file, directory or mount that a path names now.

    It is held by a descriptor (open(2), O_PATH): a kernel gives the inode number of a removed file to the next one, but
    not as long as the file is open. It is closed by `close`, or when nobody has this object any more.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError when there is nothing at `path`."""
        self.path = path
        self._fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self._fd)

    def is_same(self) -> bool:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return os.path.samestat(os.fstat(self._fd), os.lstat(self.path))
        return False


class LinkIdentity:
    """A network link by its index, which the kernel does not give again (netdevice(7), SIOCGIFINDEX)."""

    def __init__(self, name: str) -> None:
        """Raises OSError when there is no such link in this process's network namespace."""
        self.name, self._index = name, socket.if_nametoindex(name)

    def is_same(self) -> bool:
        with contextlib.suppress(OSError):
            return socket.if_nametoindex(self.name) == self._index
        return False


class RecordIdentity:
    """What an engine tells of something that has a name and no id. `look` gives None where there is nothing."""

    def __init__(self, look: Callable[[], object]) -> None:
        self._look, self._seen = look, look()

    def is_same(self) -> bool:
        return self._seen is not None and self._look() == self._seen


def remove_empty(identity: PathIdentity) -> None:
    """Remove a directory if nothing is in it, unless another one has its path by now."""
    if identity.is_same():
        with contextlib.suppress(OSError):
            identity.path.rmdir()
