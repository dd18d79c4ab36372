"""What a move tells whoever watches it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from migrate.errors import MigrateError
from migrate.state import State


class Observer(Protocol):
    """Told synchronously, but inside the freeze only by `state` and `phase`; must be quick."""

    def state(self, state: State) -> None:
        """The move has reached a state."""

    def phase(self, name: str) -> None:
        """A step of the move begins (docs/report.md, `phases`)."""

    def sent(self, total_bytes: int, expected_bytes: int) -> None:
        """Progress of the memory transfer."""

    def note(self, text: str) -> None:
        """A line a person may want to read: decisions and why."""


class Unfailing:
    """Passes everything on to another observer. A failure of that one ends no move; Interrupted does."""

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
