"""Volumes that a move copied away: what they hold here is old, and the next move that brings one may overwrite it.

A record holds when the volume was created, as its engine tells it: a later volume of the same name is another one.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from checkpoint.host import ownership

RECORDS = Path("/var/lib/migrate/left-behind")


def _record(engine: str, volume: str) -> Path:
    return RECORDS / f"{engine}-volume-{volume}"


def note(engine: str, volume: str, created: str) -> None:
    """The volume was copied away from here."""
    ownership.private_directory(RECORDS)
    ownership.mark(_record(engine, volume))
    _record(engine, volume).write_text(created)


def forget(engine: str, volume: str) -> None:
    """The volume is in use here again."""
    _record(engine, volume).unlink(missing_ok=True)


def is_noted(engine: str, volume: str, created: str) -> bool:
    """Whether the volume that was created then was copied away from here."""
    with contextlib.suppress(FileNotFoundError):
        return _record(engine, volume).read_text() == created
    return False
