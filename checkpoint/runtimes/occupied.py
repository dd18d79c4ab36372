"""Whether the place of a container's files may be filled: nobody else has files there, and nobody is at work there."""

from __future__ import annotations

from pathlib import Path

from checkpoint.host import proc
from checkpoint.rootfs.beneath import is_somebodys_root
from checkpoint.runtimes.base import MARKER


def is_taken(path: Path, bundle: Path) -> bool:
    """Whether a bundle, or the rootfs of one at `path`, holds what no earlier move left behind, or is in use."""
    if not path.exists():
        return False
    unknown = any(path.iterdir()) and not (bundle / MARKER).exists()
    return unknown or (path != bundle and (is_somebodys_root(path) or _has_mounts(path)))


def _has_mounts(path: Path) -> bool:
    """Whether something is mounted below it: to remove the directory there would be to unmount that."""
    place = path.resolve()
    return any(place in Path(mount.point).parents for mount in proc.mounts("self"))
