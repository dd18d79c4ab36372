"""What a move tells whoever watches it."""

from __future__ import annotations

from typing import Protocol

from migrate.state import State


class Observer(Protocol):
    """Told synchronously, but inside the freeze only by `state`; must be quick and must not raise."""

    def state(self, state: State) -> None:
        """The move has reached a state."""

    def sent(self, total_bytes: int, expected_bytes: int) -> None:
        """Progress of the memory transfer."""

    def note(self, text: str) -> None:
        """A line a person may want to read: decisions and why."""


class Silent:
    """Watches nothing."""

    def state(self, state: State) -> None: ...

    def sent(self, total_bytes: int, expected_bytes: int) -> None: ...

    def note(self, text: str) -> None: ...
