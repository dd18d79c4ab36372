"""Modes and owners of what a move makes on the target: those of the source, and never wider.

Every mode is set explicitly, so that no umask (umask(2)) decides who may read a container's files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from checkpoint.schema import Range

#: For what is the tool's own: images, logs, records.
PRIVATE_DIRECTORY, PRIVATE_FILE = 0o700, 0o600
#: The right to pass through a directory (path_resolution(7)), of its group and of others.
GROUP_PASSES, OTHERS_PASS = stat.S_IXGRP, stat.S_IXOTH


class Owned(NamedTuple):
    """Permission bits (chmod(2)), user and group of one file on the source."""

    mode: Annotated[int, Range(0, 0o7777)]
    uid: Annotated[int, Range(0, (1 << 32) - 1)]
    gid: Annotated[int, Range(0, (1 << 32) - 1)]


#: A path of which the source says nothing is root's alone.
UNKNOWN = Owned(PRIVATE_DIRECTORY, 0, 0)


def along(*paths: Path) -> dict[str, list[int]]:
    """`Owned`, as JSON has it, of each path and of every directory on the way to it. Raises OSError."""
    found = {}
    for path in paths:
        for step in (*reversed(path.parents), path):
            status = os.stat(step)
            found[str(step)] = [stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid]
    return found


class Maker:
    """Makes directories and files on the target as `owned` says of the source. What exists is not changed.

    A directory that exists may let pass whom the source's keeps out. What is made in it then gives those
    no right at all: nobody on the target can reach what nobody of the kind could reach on the source.
    """

    def __init__(self, owned: Mapping[str, Owned]) -> None:
        self._owned = owned

    def missing(self, path: Path) -> Iterator[Path]:
        """The directories to be made for `path`, itself included, outermost first."""
        for step in (*reversed(path.parents), path):
            if not step.exists():
                yield step

    def directory(self, path: Path) -> None:
        """Make one directory, whose parent exists. Raises OSError."""
        owned, withheld = self._owned.get(str(path), UNKNOWN), self._withheld(path)
        path.mkdir(mode=PRIVATE_DIRECTORY)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _give(fd, owned, withheld)
        finally:
            os.close(fd)

    def file(self, path: Path, content: bytes) -> None:
        """Write a file, or put another one in its place, whole or not at all. Raises OSError."""
        owned, withheld = self._owned.get(str(path), UNKNOWN), self._withheld(path)
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        fd = os.open(
            new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE
        )
        with open(fd, "wb") as file:
            _give(fd, owned, withheld)
            file.write(content)
        new.rename(path)

    def _withheld(self, path: Path) -> int:
        """The permission bits that `path` must not have, for the sake of the directories above it."""
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
    """Make a directory, and its parents, for root alone. Those that exist stay as they are. Raises OSError."""
    for step in (*reversed(path.parents), path):
        step.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)


def mark(path: Path) -> None:
    """Make an empty file for root alone, unless it exists. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        os.fchmod(fd, PRIVATE_FILE)
    finally:
        os.close(fd)


def _give(fd: int, owned: Owned, withheld: int) -> None:
    """Owner first: chown(2) takes the set-user-ID bits away."""
    os.fchown(fd, owned.uid, owned.gid)
    os.fchmod(fd, stat.S_IMODE(owned.mode) & ~withheld)
