"""The check that a place on the target may be filled with a container's files.

The place may hold no files except those that an earlier migration left behind, and no container may
be using it.
"""

from __future__ import annotations

import os
from pathlib import Path

from checkpoint.engines.base import MARKER
from checkpoint.files.beneath import is_somebodys_root
from checkpoint.host import proc


def is_taken(path: Path, bundle: Path) -> bool:
    """Return whether `path`, which is a bundle or its rootfs, must not be filled.

    `path` is taken if it has files and `bundle` has no MARKER of an earlier migration, or if
    something that is no directory is in its place or on the way to it. A rootfs is also taken if a
    process has it as its root directory, or if something is mounted beneath it.
    """
    there = next(step for step in (path, *path.parents) if os.path.lexists(step))
    if not there.is_dir():
        return True
    if there != path:
        return False
    unknown = any(path.iterdir()) and not (bundle / MARKER).exists()
    return unknown or (path != bundle and (is_somebodys_root(path) or _has_mounts(path)))


def _has_mounts(path: Path) -> bool:
    """Return whether something is mounted beneath `path`.

    Removing a directory that is a mount point would unmount what is mounted on it.
    """
    place = path.resolve()
    return any(place in Path(mount.point).parents for mount in proc.mounts("self"))
