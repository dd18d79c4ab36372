"""The end of migrations that were cut off on this host: what they made is removed.

A migration is cut off if the program that carries it out is killed, or its host fails. Its journal
then has no owner and no end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from checkpoint.engines import registry as engines
from checkpoint.errors import CheckpointError, DataInvalid, reason
from checkpoint.host import proc
from checkpoint.host.journal import Journal
from checkpoint.network import netns
from checkpoint.undo import Made, read
from migrate.journal import book
from migrate.journal.account import Account, end_of_cut_off
from migrate.journal.records import encode

#: The modules that declare the things of which a journal tells.
DECLARING = (engines, netns)


def sweep(tell: Callable[[str], None]) -> None:
    """End the migrations that were cut off and of which this host alone knows the end.

    Those are all whose container runs on the source, and of which nobody holds a copy. `tell` gets
    a line for people about each migration that had made something. What cannot be removed now is
    tried again next time. Raises OSError.
    """
    for each in book.listed():
        if each.owned or each.account.ended is not None:
            continue
        end = end_of_cut_off(each.account, book.now_ms())
        # Somebody else may be at it, or have done it.
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            if end is not None:
                with Journal(each.path) as cut_off:
                    if _removed(each.account, tell):
                        cut_off.append(encode(end))
    book.prune()


def _removed(found: Account, tell: Callable[[str], None]) -> bool:
    """Remove what a migration has made, latest first, and return whether all of it is gone."""
    removed, left = [], []
    for thing in _things(found):
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
    what = f"the move {found.begun.migration_id}, which was cut off, had made on this host"
    if removed:
        tell(f"{what} and it is removed: {', '.join(removed)}")
    if left:
        tell(f"{what} and it cannot be removed: {', '.join(left)}")
    return not left


def _things(found: Account) -> Iterator[Made]:
    """Yield the things that may still be there, latest first. Raises OSError."""
    same_boot = found.begun.boot_id == proc.boot_id()
    for plain in reversed(found.made):
        with contextlib.suppress(DataInvalid):  # of another version of this program
            thing = read(plain)
            if same_boot or thing.on_disk:
                yield thing
