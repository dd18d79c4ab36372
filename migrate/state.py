"""The states of a move and the steps between them that exist. No I/O here."""

from __future__ import annotations

import enum


class State(enum.Enum):
    """Where a move is, and with it which host may run the container.

    source only    PLANNED, PREPARED, ARMED, FROZEN, HELD, ROLLING_BACK, ROLLED_BACK
    neither        KILLING: SIGKILL is on its way, there is no return; the target must not run yet
    target only    KILLED: the death was seen; RESUMED, DONE
    """

    PLANNED = "planned"
    PREPARED = "prepared"
    ARMED = "armed"
    FROZEN = "frozen"
    HELD = "held"
    KILLING = "killing"
    KILLED = "killed"
    RESUMED = "resumed"
    DONE = "done"
    ROLLING_BACK = "rolling back"
    ROLLED_BACK = "rolled back"


_FORWARD = {
    State.PLANNED: State.PREPARED,
    State.PREPARED: State.ARMED,
    State.ARMED: State.FROZEN,
    State.FROZEN: State.HELD,
    State.HELD: State.KILLING,
    State.KILLING: State.KILLED,
    State.KILLED: State.RESUMED,
    State.RESUMED: State.DONE,
    State.ROLLING_BACK: State.ROLLED_BACK,
}
#: Until the source's init is killed, the source can always go on.
REVERSIBLE = frozenset({State.PLANNED, State.PREPARED, State.ARMED, State.FROZEN, State.HELD})


class InvalidMove(Exception):
    """A step that no move takes. A defect in this program, never a user's doing."""


def check_move(old: State, new: State) -> None:
    """Raise InvalidMove unless a move may go from `old` to `new`."""
    back = old in REVERSIBLE and new is State.ROLLING_BACK
    if _FORWARD.get(old) is not new and not back:
        raise InvalidMove(f"a move cannot go from {old.value} to {new.value}")
