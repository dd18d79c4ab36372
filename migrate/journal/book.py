"""The journals of this host's migrations: one for each, in RAM as long as it is written.

A journal is named ID.source on the source of migration ID, and ID.target on its target. The process
that takes part in the migration owns it (checkpoint/host/journal.py). So a journal that has not
ended and that nobody owns is one of a migration that was cut off.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

from checkpoint.errors import DataInvalid, ProcError, reason
from checkpoint.host import journal, paths, proc, processes, whole
from checkpoint.host.journal import Journal, Place
from checkpoint.host.ownership import private_directory
from checkpoint.undo import Made
from migrate.journal.account import Account, account
from migrate.journal.records import (
    SOURCE,
    TARGET,
    Begun,
    Ended,
    Entered,
    Entry,
    MadeThing,
    ProcessRecord,
    encode,
)

log = logging.getLogger(__name__)
#: On disk, and in RAM.
DIRECTORY, RAM = paths.STATE / "journal", paths.RUN / "journal"
#: The number of migrations that have ended and are still listed: those that ended last.
MOST_ENDED = 100


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A journal on this host: what its entries come to, and whether a process owns it."""

    place: Place
    account: Account
    owned: bool


class MigrationJournal:
    """The journal of a migration that this process takes part in, as a context.

    A process that leaves the context without `end` leaves a migration that was cut off.
    """

    def __init__(self, begun: Begun) -> None:
        """Begin the journal, on disk when the constructor returns.

        Raises OSError, also FileExistsError if this host has a journal of the migration's id.
        """
        private_directory(DIRECTORY)
        place = _place(begun.migration_id, begun.side)
        self._journal = _opened(place)
        with contextlib.ExitStack() as undo:
            undo.callback(self._journal.close)
            if self._journal.entries:
                raise FileExistsError(f"{place.name} is the journal of an earlier migration")
            undo.callback(place.unlink)
            self._append(begun)
            self._journal.sync()
            undo.pop_all()

    @classmethod
    def inherited(cls, migration_id: str, side: str, fd: int) -> MigrationJournal:
        """Return the journal of a process that was killed; `fd` is a copy of its descriptor.

        Raises OSError.
        """
        found = cls.__new__(cls)
        found._journal = Journal.inherited(_place(migration_id, side), fd)
        return found

    @classmethod
    def taken_up(cls, listed: Listed) -> MigrationJournal:
        """Return the journal of a migration that was cut off, which this process owns from now on.

        Raises BlockingIOError if another process owns it, FileNotFoundError, and OSError.
        """
        if not listed.place.exists():
            raise FileNotFoundError(listed.place.name)
        found = cls.__new__(cls)
        found._journal = _opened(listed.place)
        return found

    def fileno(self) -> int:
        """Return the descriptor by which this process owns the journal."""
        return self._journal.fileno()

    def account(self) -> Account:
        """Return what the entries come to so far. Raises DataInvalid."""
        return account(self._journal.entries)

    def __enter__(self) -> MigrationJournal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the journal up. The file stays."""
        self._journal.close()

    def entered(self, state: str) -> None:
        """Enter a state of this host's half. A failure is only logged.

        The entry outlives this process, but a power cut only if `sync` comes after it: a power cut
        ends the container's processes as well, and the boot's id in the journal tells that it came.
        """
        try:
            self.must_enter(state)
        except OSError as error:
            log.warning("the journal lacks %r: %s", state, reason(error))

    def must_enter(self, state: str) -> None:
        """Enter a state as `entered` does. Raises OSError."""
        self._append(Entered(at_ms=now_ms(), state=state))

    def resumed(self, state: str) -> None:
        """Enter that the container is about to run on this host: nothing may be undone any more.

        A journal that cannot be written is removed instead.
        """
        try:
            self.must_enter(state)
        except OSError as error:
            log.warning("the journal lacks %r, and goes: %s", state, reason(error))
            with contextlib.suppress(OSError):
                self._journal.place.unlink()

    def made(self, thing: Made, passing: bool = False) -> None:
        """Enter a thing that this host has just made (MadeThing). Raises OSError.

        What outlives a reboot is known after it.
        """
        self._append(MadeThing(at_ms=now_ms(), thing=thing.plain(), passing=passing))
        if thing.on_disk:
            self._journal.sync()

    def sync(self) -> None:
        """Have all entries outlive a power cut. A failure is only logged."""
        try:
            self._journal.sync()
        except OSError as error:
            log.warning("the journal is not on disk: %s", reason(error))

    def end(self, outcome: str, error: str | None = None) -> None:
        """Enter that nothing is left to be done on this host. A failure is only logged."""
        try:
            self.must_end(Ended(at_ms=now_ms(), outcome=outcome, error=error))
        except OSError as failure:
            log.warning("the journal lacks its end: %s", reason(failure))

    def must_end(self, end: Ended) -> None:
        """Enter the end as `end` does. Raises OSError."""
        self._append(end)
        self._journal.retire()

    def _append(self, entry: Entry) -> None:
        self._journal.append(encode(entry))


def now_ms() -> int:
    """Return the time of entries: milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def process_record(pid: int) -> ProcessRecord:
    """Return the record of a process of this host. Raises OSError and ProcError."""
    return ProcessRecord(pid, processes.start_ticks(pid))


def listed() -> list[Listed]:
    """Return the journals of this host, those that began last at the end.

    A file that cannot be understood is left out, and so is one that goes meanwhile. Raises OSError.
    """
    found = [each for place in _places() if (each := _read(place)) is not None]
    return sorted(found, key=lambda each: each.account.begun.at_ms)


def find(migration_id: str, side: str) -> Listed | None:
    """Return this host's journal of a migration, if it can be read. Raises OSError."""
    return _read(_place(migration_id, side))


def is_damaged(migration_id: str) -> bool:
    """Return whether this host has a journal of a migration that cannot be understood."""
    places = [_place(migration_id, side) for side in (SOURCE, TARGET)]
    return any(place.exists() and _read(place) is None for place in places)


def is_alive(process: ProcessRecord | None) -> bool:
    """Return whether a process of this host lives that a journal of this boot tells of."""
    if process is None:
        return False
    try:
        same = processes.start_ticks(process.pid) == process.start_ticks
        return same and not processes.has_ended(process.pid)
    except (OSError, ProcError):
        return False


def prune() -> None:
    """Remove the journals of migrations that ended before the last MOST_ENDED. Raises OSError.

    Pieces of copies go, too, of which nobody is writing any more.
    """
    for piece in DIRECTORY.glob(f".*{whole.NEW}"):
        writer = piece.name.split(".")[-2]
        if writer.isdecimal() and processes.has_ended(int(writer)):
            piece.unlink(missing_ok=True)
    ended = [each for each in listed() if each.account.ended is not None and not each.owned]
    for each in sorted(ended, key=lambda each: each.account.since_ms)[:-MOST_ENDED]:
        each.place.unlink()


def _read(place: Place) -> Listed | None:
    with contextlib.suppress(FileNotFoundError):
        owned = journal.has_owner(place)
        try:
            return Listed(place=place, account=_account(place), owned=owned)
        except DataInvalid as error:
            log.warning("%s is no journal: %s", place.name, error)
    return None


def _account(place: Place) -> Account:
    """Return what a journal comes to. Raises DataInvalid, also if that cannot be known."""
    entries, from_ram = journal.read(place)
    found = account(entries)
    if not from_ram and found.ended is None and found.begun.boot_id == proc.boot_id():
        raise DataInvalid("what it had in RAM is gone, although the host was not started again")
    return found


def _opened(place: Place) -> Journal:
    private_directory(RAM)
    return Journal(place)


def _place(migration_id: str, side: str) -> Place:
    name = f"{migration_id}.{side}"
    return Place(ram=RAM / name, disk=DIRECTORY / name)


def _places() -> Iterator[Place]:
    for side in (SOURCE, TARGET):
        names = {path.stem for where in (DIRECTORY, RAM) for path in where.glob(f"*.{side}")}
        yield from (_place(name, side) for name in sorted(names))
