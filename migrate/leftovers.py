"""Removal of what killed migrations left on this host.

That is what they made for the container, lock files, images in RAM, and container images on disk.

A directory is a leftover if nobody holds its lock (checkpoint/host/ram_directory.py), never because
of its age.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from checkpoint.host import lock, paths, ram_directory
from migrate.journal import cut_off

#: Files of container images on their way out, of no use to another migration. They are on disk,
#: because a container image may be larger than RAM.
OUTGOING_IMAGES = paths.STATE / "outgoing"
#: Files of container images that have come. They stay until the engine has them, because the next
#: migration completes them.
INCOMING_IMAGES = paths.STATE / "images"
#: The number of container images of which files stay: those that received files last.
MOST_IMAGES = 4


def sweep(tell: Callable[[str], None]) -> None:
    """Remove what killed migrations left on this host. Raises OSError.

    `tell` is called with a line for people about each migration that had made something, and about
    each directory that held a container's memory.
    """
    cut_off.sweep(tell)
    lock.sweep()
    for line in ram_directory.remove_abandoned():
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
    return [path for path in _directories(parent) if ram_directory.is_abandoned(path)]
