"""Translation of an overlay's writable layer into changes of what the overlay shows.

Kernel: Documentation/filesystems/overlayfs.rst. A whiteout is a character device 0:0, or an empty
regular file with the attribute WHITEOUT: it hides the file that the lower layers have at its path.
An opaque directory hides everything that the lower layers have at its path.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping

from checkpoint.files.beneath import NOT_IN_TREE, Attributes, TreeRoot, passed_over
from checkpoint.files.changes import Changes, Snapshot

OPAQUE, WHITEOUT, REDIRECT = (
    "trusted.overlay.opaque",
    "trusted.overlay.whiteout",
    "trusted.overlay.redirect",
)


def content(layer: Snapshot, shown: TreeRoot) -> Changes:
    """Return all that a writable layer holds, as changes for a target without that layer.

    The target shows only the lower layers so far. `layer` is the state of the writable layer on the
    source, `shown` is the whole overlay there.
    """
    return _told(
        layer, {}, shown, Changes(changed=tuple(sorted(layer.files)), removed=(), directories=())
    )


def translated(found: Changes, before: Snapshot, shown: TreeRoot) -> Changes:
    """Translate changes of a writable layer for a target that shows the overlay of `before`.

    `found` are the changes since `before`, a state of the writable layer on the source. `shown` is
    the whole overlay on the source now.
    """
    return _told(before, before.attributes, shown, found)


def _told(
    layer: Snapshot, known: Mapping[str, Attributes], shown: TreeRoot, found: Changes
) -> Changes:
    """Return `found`, changes of the writable layer, as changes of what the overlay shows.

    `known` are the attributes of directories, by path, of which the target has the effect already.
    """
    gone, kept = set(found.removed), set[str]()
    for path in found.changed:
        if is_whiteout(layer.root, path):
            gone.add(path)
            continue
        kept.add(path)
        # The root is always merged with the lower layers' (ovl_get_root of fs/overlayfs/super.c).
        if path and _hiding(layer.root.attributes(path)) - set(known.get(path, ())):
            # The directory hides what lower layers have at its path now, and what it shows instead
            # may be unchanged files from elsewhere.
            gone.add(path)
            kept.update(_below(shown, path))
    return Changes(
        changed=tuple(sorted(kept)), removed=tuple(sorted(gone)), directories=found.directories
    )


def _below(root: TreeRoot, path: str) -> Iterator[str]:
    for _, _, entries in root.walk(path):
        yield from (file for file, _ in entries)


def is_whiteout(root: TreeRoot, path: str) -> bool:
    """Return whether a file of a layer says that lower layers have no file of that name.

    Returns False if there is no such file. Raises OSError.
    """
    with passed_over(NOT_IN_TREE):
        found = root.stat(path)
        if stat.S_ISCHR(found.st_mode):
            return found.st_rdev == 0
        empty = stat.S_ISREG(found.st_mode) and found.st_size == 0
        return empty and any(name == WHITEOUT for name, _ in root.attributes(path))
    return False


def _hiding(attributes: Attributes) -> set[tuple[str, bytes]]:
    """Return the attributes by which a directory hides what the lower layers have at its path."""
    found = {(name, value) for name, value in attributes if name in (OPAQUE, REDIRECT)}
    # The value "x" hides nothing. It says that the directory may have whiteouts that are
    # attributes.
    return found - {(OPAQUE, b"x")}
