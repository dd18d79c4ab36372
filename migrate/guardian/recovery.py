"""The end of a migration that was cut off on its source, by its journal alone.

The next migration on the host and `migratectl recover` come to it. Both hosts' journals are asked:
the target's by an agent that is sent there (migrate/agent/recover.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from migrate.decisions.state import State
from migrate.decisions.takeover import KILLED, Act, Life
from migrate.guardian.takeover import Criu, Takeover, Target
from migrate.journal import book, cut_off
from migrate.journal.account import Account, is_harmless
from migrate.journal.book import Listed, MigrationJournal
from migrate.journal.records import SOURCE, Begun
from migrate.reach import Connect
from transport.destination import Destination

#: What the journal says of the end of a migration that was recovered.
RECOVERED = "it was cut off, and ended later"
#: How long a target that does not obey is tried again, and a dying container waited for.
PATIENCE_S = 3.0


@dataclass(frozen=True)
class _Left:
    """What is left of the container to one who knows only the journal (Remains).

    The other things that a migration makes or leaves are in the journal.
    """

    pid: int

    def take_links_down(self) -> None:
        """Do nothing: they went down with the container, or with the program that moved it."""

    def end_monitor(self) -> None:
        """Do nothing: the engine's monitor is among the things in the journal."""

    def record_ended(self) -> None:
        """Do nothing: the engine is not known."""


def end_cut_off(
    found: Listed,
    connect: Connect,
    tell: Callable[[str], None],
    at: str | None = None,
    *,
    go: bool = False,
    abort: bool = False,
) -> Act:
    """End a migration that was cut off on its source, as far as that can be known; return how.

    `connect` makes a connection to the target, whose name is `at`, or else is in the journal.
    `tell` gets lines for people. With `go` the target is to run the container also if it has died
    here in another way than by the migration, with its host, say. With `abort` the target is to
    drop its copy although the container was killed here: it was started here again. Raises
    BlockingIOError if another process is at it, OSError, and ValueError for a host that cannot be.
    """
    begun = found.account.begun
    assert begun.init is not None
    assert begun.destination is not None
    destination = Destination.parse(at or begun.destination)
    with MigrationJournal.taken_up(found) as journal:
        if go and cut_off.life(begun) is Life.DEAD and found.account.state not in KILLED:
            journal.must_enter(State.KILLED.value)
        if abort and found.account.state in KILLED and cut_off.runs_again(begun) is not None:
            journal.must_enter(State.ROLLING_BACK.value)
        target = Target(partial(connect, destination), begun.migration_id, tell)
        takeover = Takeover(
            journal,
            _Left(begun.init.pid),
            Criu(),
            target,
            late=True,
            why=RECOVERED,
            patience_s=PATIENCE_S,
        )
        act = takeover.run()
    for line in takeover.said:
        tell(line)
    return act


def end_all(connect: Connect, tell: Callable[[str], None]) -> None:
    """End the migrations away from this host that were cut off and need the target's word.

    If the target is not reached, it is asked again next time only if the container was killed here.
    Otherwise the container runs here, and `tell` gets a line about the copy that the target may
    hold. Raises OSError.
    """
    for found in book.listed():
        account = found.account
        if found.owned or account.ended is not None or not _needs_the_target(account):
            continue
        try:
            act = end_cut_off(found, connect, tell)
        except (BlockingIOError, FileNotFoundError):
            continue  # somebody else is at it
        if act is Act.LEAVE:
            cut_off.end_back(found, tell)
        tell(told(account.begun, act))


def _needs_the_target(found: Account) -> bool:
    if found.begun.side != SOURCE:
        return False
    return found.state in KILLED or not is_harmless(found, rebooted=cut_off.rebooted(found))


def told(begun: Begun, act: Act) -> str:
    """Return, for people, how the end of a cut-off migration came out."""
    what = f"the move {begun.migration_id} of container {begun.container_name!r}"
    if act is Act.FINISH:
        return f"{what} is done: {begun.target} runs the container"
    if act is Act.END_BACK:
        return f"{what} is rolled back: {begun.target} holds no copy of the container"
    if act is Act.GIVE_UP:
        return (
            f"{what} is over, and the container is lost with what it had in memory: {begun.target}"
            " never ran it, and does not hold it any more; its files, and what its engine knows of"
            " it, are here: start it afresh, unless the engine does so by its restart policy"
        )
    return (
        f"{what} cannot be ended yet: {begun.target} does not say what it has, or the container is"
        f" not dead yet; 'migratectl recover {begun.migration_id}' tries again"
    )
