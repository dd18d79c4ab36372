"""What the entries of a migration's journal come to. No I/O here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from checkpoint.errors import DataInvalid
from migrate.agent import state as incoming
from migrate.decisions.state import REVERSIBLE, State
from migrate.decisions.takeover import MAY_BE_HELD
from migrate.journal.records import SOURCE, TARGET, Begun, Ended, Entered, MadeThing, decode

#: The states of each half in which a migration that is cut off ends by itself: the container runs
#: on the source, and no other host holds a copy of it.
HARMLESS = {
    SOURCE: {state.value for state in (REVERSIBLE | {State.ROLLED_BACK})} - MAY_BE_HELD,
    # Also HELD: CRIU has killed the copy when the last program that held it was gone.
    TARGET: {state.value for state in incoming.REVERSIBLE | {incoming.State.ABORTED}},
}
#: What the journal says of the end of a migration that was cut off in such a state.
CUT_OFF = "the program that carried it out was killed, or its host failed"


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a host's journal says of one migration.

    `state` is the state that was entered last, at `since_ms`, or None if the migration had only
    begun. `made` are the JSON forms of the things that this host has made, first to last; those in
    `passing` are there until the migration succeeds. `ended` is None while something is left to be
    done on this host.
    """

    begun: Begun
    state: str | None
    since_ms: int
    made: tuple[Mapping[str, Any], ...]
    passing: tuple[Mapping[str, Any], ...]
    ended: Ended | None


def account(entries: Iterable[Mapping[str, Any]]) -> Account:
    """Return what entries come to. Raises DataInvalid if they are not those of one migration."""
    read = [decode(entry) for entry in entries]
    if not read or not isinstance(begun := read[0], Begun):
        raise DataInvalid("a journal that does not say which migration has begun")
    state, since_ms, ended = None, begun.at_ms, None
    made: list[Mapping[str, Any]] = []
    passing: list[Mapping[str, Any]] = []
    for entry in read[1:]:
        if isinstance(entry, Begun) or ended is not None:
            raise DataInvalid("a journal of more than one migration")
        if isinstance(entry, MadeThing):
            (passing if entry.passing else made).append(entry.thing)
            continue
        since_ms = entry.at_ms
        if isinstance(entry, Entered):
            state = entry.state
        else:
            ended, state = entry, entry.outcome
    return Account(
        begun=begun,
        state=state,
        since_ms=since_ms,
        made=tuple(made),
        passing=tuple(passing),
        ended=ended,
    )


def end_of_cut_off(
    found: Account, at_ms: int, *, lives: bool, rebooted: bool = False
) -> Ended | None:
    """Return the end of a migration that was cut off, at the time when that is noticed.

    `lives`: this host is the source, and the container's init lives and is not about to die.
    `rebooted` is as for is_harmless. None means that this host alone does not know which host has
    the container.
    """
    outcome = State.ROLLED_BACK if found.begun.side == SOURCE else incoming.State.ABORTED
    end = Ended(at_ms=at_ms, outcome=outcome.value, error=CUT_OFF)
    if is_harmless(found, rebooted=rebooted):
        return end
    return replace(end, error=f"{CUT_OFF}; {copy_held(found)}") if lives else None


def is_harmless(found: Account, *, rebooted: bool) -> bool:
    """Return whether no other host than the source can have the container, or a copy of it.

    `rebooted`: the host was started again since.
    """
    state = furthest_state(found, rebooted=rebooted)
    return state is None or state in HARMLESS[found.begun.side]


def furthest_state(found: Account, *, rebooted: bool) -> str | None:
    """Return the state to which a migration may have come.

    A source syncs its journal at ARMED and after the kill (migrate/phases/). If it was `rebooted`,
    what it entered in between is lost.
    """
    if rebooted and found.begun.side == SOURCE and found.state == State.ARMED.value:
        return State.HELD.value
    return found.state


def copy_held(found: Account) -> str:
    """Return, for people, that the target may hold a copy of a container that the source runs."""
    begun = found.begun
    return (
        f"{begun.target} may hold a copy: 'migratectl recover {begun.migration_id} --abort"
        f" --on {begun.destination}' drops that"
    )
