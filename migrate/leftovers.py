"""What killed runs leave on a host, found and removed by the next one: images in RAM, and files of images on disk.

What was left is told by a lock that nobody holds any more (checkpoint/images/directory.py), never by its age.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from checkpoint.images import directory

#: On disk: an image may be larger than RAM. Files that were made to be sent are of no use to another run.
OUTGOING_IMAGES = Path("/var/lib/migrate/outgoing")
#: Files that came stay until the engine has them: the next move goes on from there.
INCOMING_IMAGES = Path("/var/lib/migrate/images")
#: ... but of so many images only, those that something last came for.
MOST_IMAGES = 4


def sweep(tell: Callable[[str], None]) -> None:
    """Remove them. `tell` is told, for people, of what held a container's memory. Raises OSError."""
    for line in directory.remove_abandoned():
        tell(line)
    for path in _unheld(OUTGOING_IMAGES):
        shutil.rmtree(path, ignore_errors=True)
    wanted = sorted(
        _unheld(INCOMING_IMAGES), key=lambda path: path.stat().st_mtime_ns, reverse=True
    )
    for path in wanted[MOST_IMAGES:]:
        shutil.rmtree(path, ignore_errors=True)
    names = {path.name for path in _directories(INCOMING_IMAGES)}
    for archive in INCOMING_IMAGES.glob("*.tar"):
        if archive.stem not in names:
            archive.unlink(missing_ok=True)


def _directories(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []


def _unheld(parent: Path) -> list[Path]:
    return [path for path in _directories(parent) if directory.is_abandoned(path)]
