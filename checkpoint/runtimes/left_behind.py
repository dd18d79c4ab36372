"""Volumes that a move copied away: what they hold here is old, and the next move that brings one may overwrite it."""

from __future__ import annotations

from pathlib import Path

from checkpoint.host import ownership

RECORDS = Path("/var/lib/migrate/left-behind")


def _record(engine: str, volume: str) -> Path:
    return RECORDS / f"{engine}-volume-{volume}"


def note(engine: str, volume: str) -> None:
    """It was copied away from here."""
    ownership.private_directory(RECORDS)
    ownership.mark(_record(engine, volume))


def forget(engine: str, volume: str) -> None:
    """It is in use here again."""
    _record(engine, volume).unlink(missing_ok=True)


def is_noted(engine: str, volume: str) -> bool:
    return _record(engine, volume).exists()
