"""Change files below a directory by relative paths that somebody else has named, and nothing outside it.

A container may put a symlink where a directory was a moment ago: no component of a path is followed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def _parent(root: Path, path: str) -> Iterator[tuple[int, str]]:
    """(descriptor of the directory that holds it, its name there). Raises OSError when the way there is none."""
    *directories, name = [part for part in path.split("/") if part not in ("", ".")] or ["."]
    if ".." in (*directories, name):
        raise PermissionError(f"{path!r} leads out of the tree")
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for directory in directories:
            inner = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd, name
    finally:
        os.close(fd)


def remove(root: Path, paths: Iterable[str]) -> None:
    """Files, and directories with all that is in them; parents come before their children. What is gone is gone."""
    for path in reversed(list(paths)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), _parent(root, path) as (directory, name):
            if stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
                shutil.rmtree(name, ignore_errors=True, dir_fd=directory)
            else:
                os.unlink(name, dir_fd=directory)


def set_mtime(root: Path, path: str, mtime_ns: int) -> None:
    """Of a file that may have come and gone while others were copied."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), _parent(root, path) as (directory, name):
        os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=False)
