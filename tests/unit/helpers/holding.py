"""An agent that holds a container and answers at its control socket."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from migrate.agent.control import ControlSocket
from migrate.network.late_frames import Frame


class Held:
    """A held container, with a long description and nothing else."""

    holds_container = True

    def go(self, frames: Iterable[Frame] = ()) -> None: ...
    def abort(self) -> None: ...
    def describe(self) -> str:
        return "\U0001f600" * 2000


def answering(control: ControlSocket, *, link_alive: bool = True) -> threading.Thread:
    """Have an agent answer one question, in a thread."""
    thread = threading.Thread(target=lambda: control.answer(Held(), link_alive=link_alive))
    thread.start()
    return thread
