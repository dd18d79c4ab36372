"""`migratectl status`: the migrations of this host, from its journals and its agents."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass
from typing import Any

from checkpoint.host.paths import RUN
from checkpoint.host.ram_directory import abandoned
from migrate.agent import control
from migrate.cli.console import put, say
from migrate.journal import book
from migrate.journal.records import SOURCE, Begun
from migrate.text import size

#: The version of what --json prints.
SCHEMA = 1
#: The limit to the answer of each agent on this host that is asked, one after the other.
STATUS_S = 3.0
#: How a migration is, in the order in which migrations are listed.
HELD, CUT_OFF, UNDER_WAY, ENDED = "held", "cut off", "under way", "ended"
ORDER = (HELD, CUT_OFF, UNDER_WAY, ENDED)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One migration of this host, and how it is: HELD, CUT_OFF, UNDER_WAY or ENDED."""

    found: book.Listed
    condition: str

    @property
    def begun(self) -> Begun:
        return self.found.account.begun

    def line(self) -> str:
        """Return a line for people."""
        begun, account = self.begun, self.found.account
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(account.since_ms / 1000))
        what = (
            f"{begun.migration_id}: container {begun.container_name!r} ({begun.engine})"
            f" from {begun.source} to {begun.target}"
        )
        state = account.state or "begun"
        if self.condition != CUT_OFF:
            error = account.ended.error if account.ended is not None else None
            tail = f": {error}" if error else ""
            return f"{what}: {self.condition}, {state} since {since}{tail}"
        return f"{what}: cut off on this host when it was {state}, {since}; {self._advice()}"

    def _advice(self) -> str:
        begun = self.begun
        if begun.side == SOURCE:
            return f"'migratectl recover {begun.migration_id}' ends it"
        return f"'migratectl recover {begun.migration_id}' on {begun.source} ends it"

    def plain(self) -> dict[str, Any]:
        """Return the migration as --json prints it."""
        begun, account = self.begun, self.found.account
        return {
            "id": begun.migration_id,
            "side": begun.side,
            "engine": begun.engine,
            "container": begun.container_name,
            "source": begun.source,
            "target": begun.target,
            "condition": self.condition,
            "state": account.state,
            "began_unix_ms": begun.at_ms,
            "since_unix_ms": account.since_ms,
            "error": account.ended.error if account.ended is not None else None,
        }


def show(*, as_json: bool) -> None:
    """Print all migrations of this host, and what killed ones have left in RAM. Raises OSError."""
    held = _held()
    migrations = sorted(
        (Shown(found=found, condition=_condition(found, held)) for found in book.listed()),
        key=lambda each: ORDER.index(each.condition),
    )
    left = abandoned()
    if as_json:
        _print_json(migrations, left)
        return
    for name, text in held.items():
        put(f"{name}: {text}")
    for each in migrations:
        if each.condition != HELD:
            put(each.line())
    for name, size_bytes in left.items():
        put(
            f"{name}: left by a move that was killed, {size(size_bytes)} of RAM;"
            " the next move here removes it"
        )


def _print_json(migrations: list[Shown], left: dict[str, int]) -> None:
    """Print one JSON object: docs/status.md has its fields."""
    put(
        json.dumps(
            {
                "schema": SCHEMA,
                "host": platform.node(),
                "migrations": [each.plain() for each in migrations],
                "leftovers": [{"id": name, "bytes": count} for name, count in left.items()],
            }
        )
    )


def _condition(found: book.Listed, held: dict[str, str]) -> str:
    if found.account.begun.side != SOURCE and found.account.begun.migration_id in held:
        return HELD
    if found.account.ended is not None:
        return ENDED
    return UNDER_WAY if found.owned else CUT_OFF


def _held() -> dict[str, str]:
    """Return {migration id: what its agent says} of the agents that hold a container here.

    An agent that does not answer is told of on standard error.
    """
    found = {}
    for path in sorted(RUN.glob(f"*{control.SUFFIX}")):
        name = path.name.removesuffix(control.SUFFIX)
        try:
            found[name] = control.ask(path, control.STATUS, STATUS_S).text
        except TimeoutError:
            say(
                f"migratectl: {name}: its agent does not answer within {STATUS_S:g} s;"
                " it may hold a container, so ask again and do not end it"
            )
        except OSError as error:
            say(
                f"migratectl: {name}: no agent answers any more ({error.strerror or error});"
                " the next move here cleans up"
            )
    return found
