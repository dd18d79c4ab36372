"""Modes and owners of files that a migration makes on the target: never wider than on the source.

Every mode is set explicitly, so that no umask (umask(2)) decides who may read a container's files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from checkpoint.schema import Range

#: Modes of the tool's own files: images, logs, records.
PRIVATE_DIRECTORY, PRIVATE_FILE = 0o700, 0o600
#: The permission of the group, and that of others, to pass through a directory
#: (path_resolution(7)).
GROUP_PASSES, OTHERS_PASS = stat.S_IXGRP, stat.S_IXOTH


class Owned(NamedTuple):
    """The permission bits (chmod(2)), user and group of one file on the source."""

    mode: Annotated[int, Range(0, 0o7777)]
    uid: Annotated[int, Range(0, (1 << 32) - 1)]
    gid: Annotated[int, Range(0, (1 << 32) - 1)]


#: Used for a path of which the source reported nothing: it becomes root's alone.
UNKNOWN = Owned(PRIVATE_DIRECTORY, 0, 0)


def along(*paths: Path) -> dict[str, list[int]]:
    """Return {path: [mode, uid, gid]} of each path and of every directory on the way to it.

    The values are `Owned` in its JSON form. Raises OSError.
    """
    found = {}
    for path in paths:
        for step in (*reversed(path.parents), path):
            status = os.stat(step)
            found[str(step)] = [stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid]
    return found


class Maker:
    """A maker of directories and files on the target with the modes and owners in `owned`.

    `owned` has, by path, what the source reported. Directories that exist are not changed.

    A directory that exists on the target may let the group or others pass where the source's
    directory keeps them out. A file or directory that is made below it then gives the group or the
    others no permission at all. So nobody on the target can reach a file that users of the same
    kind could not reach on the source.
    """

    def __init__(self, owned: Mapping[str, Owned]) -> None:
        self._owned = owned

    def missing(self, path: Path) -> Iterator[Path]:
        """Yield the directories that do not exist on the way to `path`, outermost first.

        `path` itself is the last of them.
        """
        for step in (*reversed(path.parents), path):
            if not step.exists():
                yield step

    def directory(self, path: Path) -> None:
        """Make one directory. Raises OSError, as when its parent does not exist or `path` does."""
        owned, withheld = self._owned.get(str(path), UNKNOWN), self._withheld(path)
        path.mkdir(mode=PRIVATE_DIRECTORY)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _give(fd, owned, withheld)
        finally:
            os.close(fd)

    def file(self, path: Path, content: bytes) -> None:
        """Write a file, or replace the one at `path`, whole or not at all. Raises OSError."""
        owned, withheld = self._owned.get(str(path), UNKNOWN), self._withheld(path)
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        fd = os.open(
            new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE
        )
        try:
            with open(fd, "wb") as file:
                _give(fd, owned, withheld)
                file.write(content)
            new.rename(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise

    def _withheld(self, path: Path) -> int:
        """Return the permission bits that `path` must not have because of its parent directories.

        A group counts as the source's only where the directory on the target has the same gid.
        """
        on_source = on_target = GROUP_PASSES | OTHERS_PASS
        for parent in reversed(path.parents):
            told, there = self._owned.get(str(parent), UNKNOWN), os.stat(parent)
            passing = told.mode if told.gid == there.st_gid else told.mode & ~GROUP_PASSES
            on_source &= passing
            on_target &= there.st_mode
        only_on_target = on_target & ~on_source
        withheld = stat.S_IRWXG if only_on_target & GROUP_PASSES else 0
        return withheld | (stat.S_IRWXO if only_on_target & OTHERS_PASS else 0)


def private_directory(path: Path) -> None:
    """Make a directory and its missing parents, for root alone. Raises OSError.

    Directories that exist are not changed.
    """
    for step in (*reversed(path.parents), path):
        step.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)


def mark(path: Path) -> None:
    """Make an empty file for root alone. Raises OSError.

    If the file exists, its content stays and its mode becomes PRIVATE_FILE.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        os.fchmod(fd, PRIVATE_FILE)
    finally:
        os.close(fd)


def _give(fd: int, owned: Owned, withheld: int) -> None:
    """Set the owner of a file, and then its mode, because chown(2) clears the set-user-ID bits.

    The mode is that of `owned` without the bits of `withheld`.
    """
    os.fchown(fd, owned.uid, owned.gid)
    os.fchmod(fd, stat.S_IMODE(owned.mode) & ~withheld)
