"""The upper layer of an overlay told as changes to what the overlay shows.

Kernel: Documentation/filesystems/overlayfs.rst. A character device 0:0 (or, empty, with the xattr) is a whiteout: what
the lower layers have of that name is gone. An opaque directory hides all they have of it.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator, Mapping

from checkpoint.rootfs.beneath import Attributes, TreeRoot
from checkpoint.rootfs.changes import Changes, Snapshot

OPAQUE, WHITEOUT, REDIRECT = (
    "trusted.overlay.opaque",
    "trusted.overlay.whiteout",
    "trusted.overlay.redirect",
)


def content(layer: Snapshot, shown: TreeRoot) -> Changes:
    """All that a layer holds, for a target that shows the lower layers alone so far. `shown`: the whole overlay."""
    return _told(
        layer, {}, shown, Changes(changed=tuple(sorted(layer.files)), removed=(), directories=())
    )


def translated(found: Changes, before: Snapshot, shown: TreeRoot) -> Changes:
    """Changes of a layer since `before`, for a target that shows what the overlay showed then."""
    return _told(before, before.attributes, shown, found)


def _told(
    layer: Snapshot, known: Mapping[str, Attributes], shown: TreeRoot, found: Changes
) -> Changes:
    """`known`: the attributes that the target's directories show the effect of."""
    gone, kept = set(found.removed), set[str]()
    for path in found.changed:
        if _is_whiteout(layer.root, path):
            gone.add(path)
            continue
        kept.add(path)
        if _hiding(layer.root.attributes(path)) - set(known.get(path, ())):
            # What lower layers have there is gone, and what is there now may come from elsewhere, unchanged.
            gone.add(path)
            kept.update(_below(shown, path))
    return Changes(
        changed=tuple(sorted(kept)), removed=tuple(sorted(gone)), directories=found.directories
    )


def _below(root: TreeRoot, path: str) -> Iterator[str]:
    for _, _, entries in root.walk(path):
        yield from (file for file, _ in entries)


def _is_whiteout(root: TreeRoot, path: str) -> bool:
    with contextlib.suppress(OSError):  # it is gone
        found = root.stat(path)
        if stat.S_ISCHR(found.st_mode):
            return found.st_rdev == 0
        empty = stat.S_ISREG(found.st_mode) and found.st_size == 0
        return empty and any(name == WHITEOUT for name, _ in root.attributes(path))
    return False


def _hiding(attributes: Attributes) -> set[tuple[str, bytes]]:
    """Those by which a directory hides what lower layers have of its name."""
    found = {(name, value) for name, value in attributes if name in (OPAQUE, REDIRECT)}
    return found - {
        (OPAQUE, b"x")
    }  # there may be whiteouts in it that are attributes, and that is all
