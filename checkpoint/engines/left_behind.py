"""Records of the volumes that a migration has copied away from this host.

The content of such a volume is out of date, and the next migration that brings the volume back may
overwrite it. A record holds the volume's creation time as its engine gives it, which tells the
volume from a later one of the same name.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from checkpoint.bounded import ContainerName, Word
from checkpoint.host import ownership, paths
from checkpoint.undo import Made

RECORDS = paths.STATE / "left-behind"


def _record(engine: str, volume: str) -> Path:
    return RECORDS / f"{engine}-volume-{volume}"


def note(engine: str, volume: str, created: str) -> None:
    """Record that the volume was copied away from this host.

    `created` is its creation time, as its engine gives it. Raises OSError.
    """
    ownership.private_directory(RECORDS)
    ownership.mark(_record(engine, volume))
    _record(engine, volume).write_text(created)


def forget(engine: str, volume: str) -> None:
    """Remove the record of a volume, which is in use on this host again."""
    _record(engine, volume).unlink(missing_ok=True)


class LeftBehind(Made):
    """The record of a volume, which a container is about to use on this host again."""

    engine: Word
    volume: ContainerName

    def __str__(self) -> str:
        return f"record that {self.engine}'s volume {self.volume!r} was left behind"

    def remove(self) -> None:
        forget(self.engine, self.volume)


def is_noted(engine: str, volume: str, created: str) -> bool:
    """Return whether the volume with that creation time was copied away from this host."""
    with contextlib.suppress(FileNotFoundError):
        return _record(engine, volume).read_text() == created
    return False
