"""An agent that outlasts its connection: it waits for the coordinator's return, or for a word.

From Outlast to Arm the target has a copy of files and memory that is not worth less because a
connection was lost. The coordinator comes back by a channel of its own (TakeUp of plug_command.py).
Whoever ends a migration in the coordinator's place says so at the control socket (control.py).
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import socket
import time
from collections.abc import Callable, Iterable

from checkpoint.errors import NotMovable
from checkpoint.host.listener import Listener
from checkpoint.host.ram_directory import MODE
from checkpoint.host.ready import ready
from migrate.agent import control
from migrate.agent.control import ControlSocket, Outcome
from migrate.agent.incoming import Incoming
from migrate.agent.plug_command import PLUGGED, TakeUp, channel_path
from migrate.agent.state import REVERSIBLE
from migrate.limits import Limits
from migrate.network.late_frames import Frame
from migrate.wire.message import ProtocolError, decode
from transport.errors import IncompleteFrame
from transport.lasting_descriptors import LastingDescriptors

MAX_MESSAGE_BYTES = 1 << 12
#: How long it may take until an agent has noticed that its connection is lost.
NOTICES_S = Limits.silence_s + 2
LOOK_AGAIN_S = 0.2
#: The description of a migration that has a container locked (Incoming).
HOLDER = re.compile(r"migration (?P<id>[0-9a-f]+) from (?P<source>\S+) to ")


class Outlasting:
    """The wait of an agent for its coordinator, whose connection was lost; until `settle`.

    The coordinator is waited for for `seconds`, each time. `say` takes lines for people. The object
    must live as long as the agent: with the last plug the present channel ends.
    """

    def __init__(
        self,
        channel: LastingDescriptors,
        incoming: Incoming,
        migration_id: str,
        seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self._channel, self._incoming, self._seconds, self._say = channel, incoming, seconds, say
        self._plug: socket.socket | None = None
        path = channel_path(migration_id)
        path.parent.mkdir(mode=MODE, exist_ok=True)
        self._listener = Listener(path, self._serve, "channel")
        channel.last(self._wait)

    def settle(self) -> None:
        """Outlast no connection any more."""
        self._channel.settle()
        self._listener.close()

    def _serve(self, plug: socket.socket) -> None:
        """Go on over the channel that a plug brings, which ends with its plug."""
        with contextlib.ExitStack() as stack:
            stack.callback(plug.close)
            message, fds, _, _ = socket.recv_fds(plug, MAX_MESSAGE_BYTES, 2)
            try:
                position = decode(message, b"", TakeUp).position
                reader, writer = fds
            except (ProtocolError, ValueError):
                for fd in fds:
                    os.close(fd)
                return
            self._incoming.trees.end_running()  # their other ends are lost
            with contextlib.suppress(IncompleteFrame):  # it tells the coordinator by its end
                self._channel.exchange(reader, writer, position, PLUGGED)
                stack.pop_all()
                if self._plug is not None:
                    self._plug.close()
                self._plug = plug

    def _wait(self, renewed: int) -> bool:
        """Wait until `renewed` can be read; return False if nobody is waited for any longer."""
        self._say(f"the connection is lost; the source is waited for for {self._seconds:g} s")
        deadline = time.monotonic() + self._seconds
        waiting = _Waiting(self._incoming)
        with ControlSocket(self._incoming.control_path) as control:
            while waiting.holds_container:
                left_s = deadline - time.monotonic()
                came = ready(renewed, control.fileno(), timeout_s=max(0.0, left_s))
                if renewed in came:
                    return True
                if not came:
                    return False
                control.answer(waiting, link_alive=False, yields=True)
        return False


def yielded(holder: str, source: str) -> bool:
    """Have a migration that waits for its source yield to another one from there.

    `holder` is its description of itself (ContainerLocked). Returns whether it has yielded: the
    container can be locked then. A connection may be lost without that its agent has noticed: it
    does by the silence of the source, which is waited for.
    """
    found = HOLDER.match(holder)
    if found is None or found["source"] != source:
        return False
    path, until_s = control.control_path(found["id"]), time.monotonic() + NOTICES_S
    while True:
        with contextlib.suppress(OSError):
            return control.ask(path, control.YIELD).outcome is Outcome.OK
        if not channel_path(found["id"]).exists() or time.monotonic() > until_s:
            return False
        time.sleep(LOOK_AGAIN_S)


class _Waiting:
    """A migration whose coordinator is waited for, as the control socket needs it (Held there).

    `holds_container` means that the migration is not dropped yet.
    """

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming

    @property
    def holds_container(self) -> bool:
        return self._incoming.state in REVERSIBLE

    def go(self, frames: Iterable[Frame] = ()) -> object:
        """Refuse: there is nothing yet that could run."""
        raise NotMovable(f"nothing was restored on {platform.node()}")

    def abort(self) -> None:
        self._incoming.abort()

    def describe(self) -> str:
        return f"a move to {platform.node()} waits for its source, whose connection was lost"
