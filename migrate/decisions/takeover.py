"""What ends a migration on its source when its coordinator is dead, step by step. No I/O here.

`next_act` decides by what is seen at the moment, so it may be asked again after any act and any
interruption. The commit rule (docs/internals/decisions.md) is kept whoever carries the acts out:

- the target is told GO only if the source's container is seen dead, by this migration's doing;
- the target is told ABORT only if the container lives on the source, or has ended there by
  somebody else's doing;
- nothing is removed from the source before the target has said that it runs the container.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from migrate.decisions.state import State

#: States of the source after which its container may be dead by this migration's doing.
KILLED = frozenset({State.KILLING.value, State.KILLED.value, State.RESUMED.value})
#: States of the source in which the target may hold a copy of the container. The agent holds it
#: already while the coordinator waits for the answer to Restore.
MAY_BE_HELD = frozenset(
    {State.FROZEN.value, State.HELD.value, State.KILLING.value, State.ROLLING_BACK.value}
)


class Life(enum.Enum):
    """How a container's init on the source is.

    DYING: SIGKILL is on its way to it. ANEW: it is dead, and somebody has started the container on
    the source again.
    """

    LIVES = "lives"
    DYING = "dying"
    DEAD = "dead"
    ANEW = "anew"


class Told(enum.Enum):
    """What came of the word that was last said to the target.

    ABSENT: nobody there holds the container or has made it run. LOST: the host's own journal says
    that it has never run there, and nobody holds it any more. UNREACHED: the target could not be
    asked, or did not answer. REFUSED: whoever holds the container there did not do it.
    """

    OBEYED = "obeyed"
    ABSENT = "absent"
    LOST = "lost"
    UNREACHED = "unreached"
    REFUSED = "refused"


class Act(enum.Enum):
    """The next step on the source."""

    TURN_BACK = "enter into the journal that the kill did not come, and never will"
    THAW = "have CRIU thaw the container and end"
    BURY = "kill CRIU, which must not undo anything for a dead container"
    WAIT = "wait until the container is dead"
    UNDO = "undo what was changed on the source"
    ABORT = "tell the target ABORT"
    GO = "tell the target GO"
    FINISH = "remove what the container has left on the source"
    END_BACK = "the container is on the source: nothing is left to do"
    GIVE_UP = "the container is lost: give back what was changed on the source, and keep its files"
    LEAVE = "leave the rest to whoever asks later"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is seen of the migration on its source.

    `state` is the journal's last. `criu`: CRIU of the dump is there, and may hold the container.
    `undone`: UNDO was done. `told` is None until a word was said. `patient`: a target that was not
    reached may be tried again.
    """

    state: str | None
    life: Life
    criu: bool
    undone: bool
    told: Told | None
    patient: bool


def next_act(seen: Seen) -> Act:
    """Return what is to be done next. END_BACK, LEAVE, GIVE_UP and FINISH are last acts."""
    if seen.state in (State.RESUMED.value, State.DONE.value):
        return Act.BURY if seen.criu else Act.FINISH
    if seen.life is Life.LIVES and seen.state in KILLED:
        # The journal says so before anything else is done: if the container ended later by somebody
        # else's doing, it would be taken for killed, and its files for those of a copy elsewhere.
        return Act.TURN_BACK
    return _forward(seen) if seen.state in KILLED else _back(seen)


def _back(seen: Seen) -> Act:
    """The container lives on the source, or has ended there without this migration's doing."""
    if seen.criu:
        return Act.THAW
    if not seen.undone and seen.life is Life.LIVES:
        return Act.UNDO  # it may run on without the target's word
    if seen.told in (Told.OBEYED, Told.ABSENT) or seen.state == State.ROLLED_BACK.value:
        return _ended_back(seen)
    if seen.state not in MAY_BE_HELD:
        # The target undoes by itself what it has made. But its agent may wait for the source first.
        return Act.ABORT if seen.told is None else _ended_back(seen)
    return Act.ABORT if seen.told is None or seen.patient else Act.LEAVE


def _ended_back(seen: Seen) -> Act:
    """The target has dropped what it had, if it had anything.

    Not before that is a container undone that has ended. Its engine may start it afresh then, by
    its restart policy. If the source was started again, its journal may lack the kill.
    """
    return Act.END_BACK if seen.undone else Act.UNDO


def _forward(seen: Seen) -> Act:
    """The container was killed by this migration, and only the target can run it."""
    if seen.life is Life.ANEW:  # it must not run twice, and a person knows which is wanted
        return Act.BURY if seen.criu else Act.LEAVE
    if seen.life is not Life.DEAD:
        return Act.WAIT if seen.patient else Act.LEAVE
    if seen.criu:
        return Act.BURY
    if seen.told is Told.OBEYED:
        return Act.FINISH
    if seen.told is Told.LOST:
        return Act.GIVE_UP
    return Act.GO if seen.told is None or seen.patient else Act.LEAVE
