"""The end of migrations that were cut off on this host: what they made is removed.

A migration is cut off if the program that carries it out is killed, or its host fails. Its journal
then has no owner and no end.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from checkpoint.engines import registry as engines
from checkpoint.engines.made import STORES
from checkpoint.errors import CheckpointError, DataInvalid, reason
from checkpoint.host import proc, processes, slowed
from checkpoint.network import guard, netns
from checkpoint.undo import Made, read
from migrate.agent import state as incoming
from migrate.decisions.state import State
from migrate.decisions.takeover import Life
from migrate.journal import book
from migrate.journal.account import CUT_OFF, Account, copy_held, end_of_cut_off, is_harmless
from migrate.journal.book import MigrationJournal
from migrate.journal.records import SOURCE, Begun, Ended

#: The states of either half after which the target runs the container.
RUNS_THERE = {State.RESUMED.value, State.DONE.value, incoming.State.FINISHED.value}
#: The modules that declare the things of which a journal tells.
DECLARING = (engines, guard, netns, processes, slowed)


def sweep(tell: Callable[[str], None]) -> None:
    """End the migrations that were cut off and of which this host alone knows the end.

    Those are all whose container runs on the source and nowhere else, and those whose target has
    said that it runs there. `tell` gets a line for people about each migration that had made
    something. What cannot be removed now is tried again next time. Raises OSError.
    """
    for each in book.listed():
        found = each.account
        if each.owned or found.ended is not None:
            continue
        if found.state in RUNS_THERE:
            _finish(each, tell)
        elif is_harmless(found, rebooted=rebooted(found)):
            end_back(each, tell)
    book.prune()


def end_back(cut_off: book.Listed, tell: Callable[[str], None]) -> None:
    """End a migration whose container runs on the source: undo what was made on this host.

    `tell` gets a line for people if the target may hold a copy. Nothing is done if this host alone
    does not know which host has the container. Raises OSError.
    """
    found = cut_off.account
    end = end_of_cut_off(found, book.now_ms(), lives=lives(found.begun), rebooted=rebooted(found))
    # Somebody else may be at it, or have done it.
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        if end is not None:
            with MigrationJournal.taken_up(cut_off) as journal:
                if undo(found, tell):
                    journal.must_end(end)
            if not is_harmless(found, rebooted=rebooted(found)):
                tell(copy_held(found))


def _finish(cut_off: book.Listed, tell: Callable[[str], None]) -> None:
    """Finish a migration that was cut off after the target had resumed the container.

    Both hosts use the same word for that state. Raises OSError.
    """
    found = cut_off.account
    outcome = State.DONE if found.begun.side == SOURCE else incoming.State.FINISHED
    gone = contextlib.suppress(BlockingIOError, FileNotFoundError)
    with gone, MigrationJournal.taken_up(cut_off) as journal:
        if left := settle(found):
            move = f"the move {found.begun.migration_id}, which was cut off,"
            tell(f"{move} cannot be finished on this host: {', '.join(left)}")
        else:
            journal.must_end(Ended(at_ms=book.now_ms(), outcome=outcome.value, error=CUT_OFF))


def rebooted(found: Account) -> bool:
    """Return whether this host was started again since a migration began."""
    return found.begun.boot_id != proc.boot_id()


def life(begun: Begun) -> Life:
    """Return how the container's init on the source is. Raises OSError and ProcError."""
    if begun.init is None or begun.boot_id != proc.boot_id():
        return Life.DEAD
    pid, started = begun.init
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        if processes.start_ticks(pid) == started and not processes.has_ended(pid):
            waiting = proc.pending_signals(proc.read(pid, "status"))
            return Life.DYING if waiting >> (signal.SIGKILL - 1) & 1 else Life.LIVES
    return Life.DEAD


def lives(begun: Begun) -> bool:
    """Return whether the container's init lives and was not sent SIGKILL. Raises as `life` does."""
    return life(begun) is Life.LIVES


def runs_again(begun: Begun) -> int | None:
    """Return the pid of a container's process if somebody has started it on the source again.

    None also if its engine does not say that. What is older than the init that was killed is no
    new start: docker takes another process for a container's that came by a migration. Raises
    OSError and ProcError.
    """
    assert begun.container_id is not None
    try:
        if (store := STORES.get(begun.engine)) is not None:
            pid = store.pid_of(begun.container_id)
        else:
            pid = engines.engine_named(begun.engine).inspect(begun.container_name).pid
    except CheckpointError:
        return None
    if not pid or processes.has_ended(pid):
        return None
    known = begun.init if begun.boot_id == proc.boot_id() else None
    older = known is not None and processes.start_ticks(pid) <= known.start_ticks
    return None if older else pid


def life_on_source(begun: Begun) -> Life:
    """Return how the container is on the source, as its engine says, too. Raises as `life`."""
    found = life(begun)
    again = found is Life.DEAD and runs_again(begun) is not None
    return Life.ANEW if again else found


def settle(found: Account) -> list[str]:
    """Remove the passing things of a migration that succeeded; return what could not be removed.

    Raises OSError.
    """
    left = []
    for thing in _things(found, found.passing[::-1]):  # first to last
        try:
            if thing is not None:
                thing.remove()
        except (CheckpointError, OSError) as error:
            left.append(f"{thing} ({reason(error)})")
    return left


def undo(found: Account, tell: Callable[[str], None]) -> bool:
    """Remove what a migration has made, latest first, and return whether all of it is gone.

    `tell` gets lines for people. Raises OSError.
    """
    removed, left = [], []
    for thing in _things(found, found.made):
        if thing is None:
            left.append("something that another version of this program made")
            continue
        if not thing.is_certain:
            tell(
                f"{thing} of the move {found.begun.migration_id} may be left here: this kernel"
                " cannot tell it from another of the same name"
            )
            continue
        try:
            thing.remove()
            removed.append(str(thing))
        except (CheckpointError, OSError) as error:
            left.append(f"{thing} ({reason(error)})")
    what = f"the move {found.begun.migration_id}, which was cut off,"
    if removed:
        tell(f"{what} is undone on this host: {', '.join(removed)}")
    if left:
        tell(f"{what} cannot be undone on this host: {', '.join(left)}")
    return not left


def _things(found: Account, made: Sequence[Mapping[str, Any]]) -> Iterator[Made | None]:
    """Yield the things of `made` that may still be there, latest first. Raises OSError.

    None stands for a thing that this program does not know.
    """
    same_boot = not rebooted(found)
    for plain in reversed(made):
        try:
            thing = read(plain)
        except DataInvalid:
            yield None
        else:
            if same_boot or thing.on_disk:
                yield thing
