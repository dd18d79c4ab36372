"""The states of a migration, and the transitions between them. No I/O here."""

from __future__ import annotations

import enum


class State(enum.Enum):
    """The state of a migration, which says which host may run the container.

    source only    PLANNED, PREPARED, ARMED, FROZEN, HELD, ROLLING_BACK, ROLLED_BACK
    neither        KILLING: SIGKILL is on its way, there is no return; the target must not run yet
    target only    KILLED: the death of the source's init was seen; RESUMED, DONE
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
#: States that can be rolled back: before the kill, the container can always run on at the source.
REVERSIBLE = frozenset({State.PLANNED, State.PREPARED, State.ARMED, State.FROZEN, State.HELD})
#: States after which the source has nothing left to do.
SETTLED = frozenset({State.DONE, State.ROLLED_BACK})


class InvalidTransition(Exception):
    """A transition that no migration makes: a defect in this program, never a user's doing."""


def check_transition(old: State, new: State) -> None:
    """Raise InvalidTransition unless a migration may go from `old` to `new`."""
    back = old in REVERSIBLE and new is State.ROLLING_BACK
    if _FORWARD.get(old) is not new and not back:
        raise InvalidTransition(f"a move cannot go from {old.value} to {new.value}")
