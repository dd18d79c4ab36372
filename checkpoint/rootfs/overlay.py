"""The upper layer of an overlay told as changes to what the overlay shows.

Kernel: Documentation/filesystems/overlayfs.rst. A character device 0:0 (or, empty, with the xattr) is a whiteout: what
the lower layers have of that name is gone. An opaque directory hides all they have of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from checkpoint.rootfs.changes import INODE, Changes, Snapshot

OPAQUE, WHITEOUT, REDIRECT = "trusted.overlay.opaque", "trusted.overlay.whiteout", "trusted.overlay.redirect"


def content(layer: Snapshot, shown: Path) -> Changes:
    """All that a layer holds, for a target that shows the lower layers alone so far. `shown`: the whole overlay."""
    return _told(layer.root, shown, sorted(layer.files), removed=(), same=lambda _: False)


def translated(found: Changes, before: Snapshot, shown: Path) -> Changes:
    """Changes of a layer since `before`, for a target that shows what the overlay showed then."""

    def same(path: str) -> bool:
        """Whether it is the directory that was there before."""
        old = before.files.get(path)
        with contextlib.suppress(FileNotFoundError):
            return old is not None and old[INODE] == (before.root / path).lstat().st_ino
        return False

    told = _told(before.root, shown, found.changed, removed=found.removed, same=same)
    return Changes(changed=told.changed, removed=told.removed, directories=found.directories)


def _told(
    layer: Path, shown: Path, paths: Iterable[str], removed: Iterable[str], same: Callable[[str], bool]
) -> Changes:
    gone, kept = set(removed), set[str]()
    for path in paths:
        file = layer / path
        if _is_whiteout(file):
            gone.add(path)
            continue
        kept.add(path)
        if not same(path):
            if _attribute(file, REDIRECT):  # renamed: what it shows is in lower layers, under the name it had there
                kept.update(_below(shown, path))
                gone.add(path)
            elif _attribute(file, OPAQUE) == b"y":
                gone.add(path)
    return Changes(changed=tuple(sorted(kept)), removed=tuple(sorted(gone)), directories=())


def _below(root: Path, path: str) -> Iterator[str]:
    for directory, names, files in os.walk(root / path):
        for name in (*names, *files):
            yield os.path.relpath(os.path.join(directory, name), root)


def _is_whiteout(file: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        found = file.lstat()
        if stat.S_ISCHR(found.st_mode):
            return found.st_rdev == 0
        return stat.S_ISREG(found.st_mode) and found.st_size == 0 and _attribute(file, WHITEOUT) is not None
    return False


def _attribute(file: Path, name: str) -> bytes | None:
    with contextlib.suppress(OSError):
        return os.getxattr(file, name, follow_symlinks=False)
    return None
