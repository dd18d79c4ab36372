"""The interface by which a migration reports its progress to an observer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from migrate.decisions.state import State
from migrate.errors import MigrateError


class Observer(Protocol):
    """The observer of a migration. Its methods must be quick, because the migration waits for them.

    During the freeze only `state` and `phase` are called, and `note` for what is out of the
    ordinary.
    """

    def state(self, state: State) -> None:
        """Report that the migration has reached a state."""

    def phase(self, name: str) -> None:
        """Report that a step of the migration begins (docs/report.md, `phases`)."""

    def sent(self, total_bytes: int, expected_bytes: int) -> None:
        """Report the progress of the memory transfer."""

    def note(self, text: str) -> None:
        """Report a line that a person may want to read: a decision, and why."""


class Unfailing:
    """An observer that passes everything on to another one, whose failure ends no migration.

    A MigrateError is passed through: a signal may raise Interrupted in the other observer.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def state(self, state: State) -> None:
        with _ignored():
            self._observer.state(state)

    def phase(self, name: str) -> None:
        with _ignored():
            self._observer.phase(name)

    def sent(self, total_bytes: int, expected_bytes: int) -> None:
        with _ignored():
            self._observer.sent(total_bytes, expected_bytes)

    def note(self, text: str) -> None:
        with _ignored():
            self._observer.note(text)


@contextlib.contextmanager
def _ignored() -> Iterator[None]:
    try:
        yield
    except MigrateError:
        raise
    except Exception:  # noqa: BLE001, S110  (nobody is left who could be told)
        pass
