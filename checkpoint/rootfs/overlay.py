"""The upper layer of an overlay told as changes to what the overlay shows.

Kernel: Documentation/filesystems/overlayfs.rst. A character device 0:0 (or, empty, with the xattr) is a whiteout: what
the lower layers have of that name is gone. An opaque directory hides all they have of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from checkpoint.rootfs.changes import Attributes, Changes, Snapshot

OPAQUE, WHITEOUT, REDIRECT = "trusted.overlay.opaque", "trusted.overlay.whiteout", "trusted.overlay.redirect"


def content(layer: Snapshot, shown: Path) -> Changes:
    """All that a layer holds, for a target that shows the lower layers alone so far. `shown`: the whole overlay."""
    return _told(layer, {}, shown, Changes(changed=tuple(sorted(layer.files)), removed=(), directories=()))


def translated(found: Changes, before: Snapshot, shown: Path) -> Changes:
    """Changes of a layer since `before`, for a target that shows what the overlay showed then."""
    return _told(before, before.attributes, shown, found)


def _told(layer: Snapshot, known: Mapping[str, Attributes], shown: Path, found: Changes) -> Changes:
    """`known`: the attributes that the target's directories show the effect of."""
    gone, kept = set(found.removed), set[str]()
    for path in found.changed:
        file = layer.root / path
        if _is_whiteout(file):
            gone.add(path)
            continue
        kept.add(path)
        if _hiding(file) - set(known.get(path, ())):
            # What lower layers have there is gone, and what is there now may come from elsewhere, unchanged.
            gone.add(path)
            kept.update(_below(shown, path))
    return Changes(changed=tuple(sorted(kept)), removed=tuple(sorted(gone)), directories=found.directories)


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


def _hiding(file: Path) -> set[tuple[str, bytes]]:
    """The attributes by which a directory hides what lower layers have of its name."""
    found = {(name, value) for name in (OPAQUE, REDIRECT) if (value := _attribute(file, name)) is not None}
    return found - {(OPAQUE, b"x")}  # there may be whiteouts in it that are attributes, and that is all


def _attribute(file: Path, name: str) -> bytes | None:
    with contextlib.suppress(OSError):
        return os.getxattr(file, name, follow_symlinks=False)
    return None
