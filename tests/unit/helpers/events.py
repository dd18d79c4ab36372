"""One event of each kind."""

from __future__ import annotations

from typing import Any

from migrate.decisions.state import State

CALLS: dict[str, tuple[Any, ...]] = {
    "phase": ("prepare",),
    "state": (State.FROZEN,),
    "sent": (1 << 20, 2 << 20),
    "note": ("a note",),
}
