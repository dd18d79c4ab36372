"""Whether an operator may end a hold by GO or by ABORT, by what the operator's host knows of it."""

from __future__ import annotations

from dataclasses import dataclass

from migrate.decisions import takeover
from migrate.decisions.state import State

#: States of the source after which its container may be dead by this migration's doing.
KILLED = takeover.KILLED | {State.DONE.value}
GUARDED = (
    "the migration's guardian, a process here, is ending it, and tries the target again and again:"
    " wait for that, and see that the target can be reached"
)
DAMAGED = (
    "the journal of that move on this host is damaged, and does not say how far the move came: look"
    " where the container runs; if it runs nowhere, 'migratectl recover ID --go --source-is-dead'"
    " on its target runs what is held there"
)
STARTED_AGAIN = (
    "the container was started on the source again, and must not run twice: stop it there, or have"
    " the copy on the target dropped by '--abort'"
)
GOES_ON = (
    "the migration goes on: the program that carries it out runs on the source; wait for its end,"
    " or end it there by SIGTERM"
)


@dataclass(frozen=True, kw_only=True)
class SourceSeen:
    """What the source's journal and processes show of a migration that is looked at there.

    `goes_on`: a program of the migration lives there. `init` is the pid of the container's init, or
    None if that is not told, and `lives` says whether that process lives, or another one (`anew`).
    """

    state: str | None
    goes_on: bool
    init: int | None
    lives: bool
    anew: bool = False


def objection_to_go(source: SourceSeen | None, *, said_dead: bool) -> str | None:
    """Return why the target may not be told to run the container; None if it may.

    `source` is None on a host that is not the migration's source. `said_dead` is the operator's
    word that the source's container is dead.
    """
    if source is None:
        return (
            None
            if said_dead
            else "nothing on this host shows that the source's container is dead, and it must not"
            " run twice; run this on the source with '--on', or say '--source-is-dead' as well if"
            " you know that it is dead"
        )
    if source.goes_on:
        return GOES_ON
    if source.lives:
        process = "" if source.init is None else f" (process {source.init})"
        return (
            f"the container lives on the source{process}, and would run twice;"
            " drop the copy on the target by '--abort'"
        )
    return None


def objection_to_abort(source: SourceSeen | None) -> str | None:
    """Return why the target may not be told to drop the container; None if it may."""
    if source is None:
        return None  # only the operator knows
    if source.goes_on:
        return GOES_ON
    if not source.lives and source.state in KILLED:
        return (
            "the container was killed on the source, and what the target has is the only copy;"
            " run it there by '--go'"
        )
    return None
