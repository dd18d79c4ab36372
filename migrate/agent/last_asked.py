"""What the source has asked for a restore, for another one that it asks no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from migrate.agent.state import State
from migrate.wire import protocol
from migrate.wire.protocol import Answer, Command


@dataclass
class LastAsked:
    """The last requests for a restore.

    If what was restored is lost after GO, the source asks for another restore. If the source's
    coordinator is gone by then, whoever says GO in its place has only this word.
    """

    arm: protocol.Arm | None = None
    restore: protocol.Restore | None = None

    def obey_again(self, handle: Callable[[Command], Iterable[Answer]], state: State) -> None:
        """Have `handle` obey what is left to be done from `state` on, until the container is held.

        Raises what `handle` raises.
        """
        assert self.arm is not None
        assert self.restore is not None
        if state is State.PREPARED:
            list(handle(self.arm))
        if state is not State.FROZEN:
            list(handle(protocol.Freezing()))
        list(handle(self.restore))
