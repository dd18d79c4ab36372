"""The connection to the target, and the way back to the agent there when the connection is lost."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from checkpoint.errors import reason
from migrate.agent.plug_command import PLUGGED, TakeUp, plug_command
from migrate.wire.message import encode
from transport.connection import Connection, Process
from transport.destination import Destination
from transport.errors import ConnectError, IncompleteFrame, PeerEnded, StreamError
from transport.kept import COUNT

#: The time for the agent's answer when a channel has come to it, and the pauses between two tries.
ANSWER_S, FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 0.2, 2.0
#: The exit status of a plug that finds no agent (agent/plug.py).
NO_AGENT = 1


class Link:
    """A Connection for which another one can be made. Use it as a context.

    `connect` makes a connection for a block.
    """

    def __init__(
        self, connect: Callable[[], contextlib.AbstractContextManager[Connection]]
    ) -> None:
        self._connect = connect
        self._stack = contextlib.ExitStack()
        self._connection: Connection
        self._ended = False

    def __enter__(self) -> Link:
        self._connection = self._stack.enter_context(self._connect())
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._stack.close()

    @property
    def destination(self) -> Destination:
        return self._connection.destination

    def run(self, command: str) -> Process:
        return self._connection.run(command)

    def renew(self) -> None:
        """Make another connection in the place of the one that was lost.

        Raises ConnectError, and IncompleteFrame if the context has ended meanwhile.
        """
        with contextlib.ExitStack() as undo:
            connection = undo.enter_context(self._connect())
            lost, self._stack = self._stack, undo.pop_all()
        self._connection = connection
        lost.close()
        if self._ended:
            self._stack.close()
            raise IncompleteFrame("nobody needs the connection any more")


class WayBack:
    """The way to an agent whose connection was lost (a Reopen of transport/lasting_process.py).

    The agent listens at `socket_path`. The connection is tried for `patience_s` seconds, unless
    `leave` was called. `note` takes lines for people.
    """

    def __init__(
        self, link: Link, socket_path: Path, patience_s: float, note: Callable[[str], None]
    ) -> None:
        self._link, self._socket_path = link, socket_path
        self._patience_s, self._note = patience_s, note
        self._left = threading.Event()

    def leave(self) -> None:
        """Try no more."""
        self._left.set()

    def __call__(self, received: int, failed: StreamError) -> tuple[Process, int]:
        """Return a channel to the agent, and how many bytes it has.

        Raises IncompleteFrame, and PeerEnded if the agent is not there any more.
        """
        host = self._link.destination.name
        self._note(
            f"the connection to {host} is lost ({failed}); it is tried again for"
            f" {self._patience_s:g} s, and the container runs on here"
        )
        began_s, pause_s = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                self._link.renew()
                found = self._plugged(received)
            except (ConnectError, StreamError, OSError) as error:
                last: Exception = error
            else:
                self._note(f"connected to {host} again, after {time.monotonic() - began_s:.1f} s")
                return found
            left_s = began_s + self._patience_s - time.monotonic()
            if left_s <= 0 or self._left.wait(min(pause_s, left_s)):
                break
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if isinstance(last, PeerEnded):
            raise PeerEnded(f"{failed}; {last}") from last
        raise IncompleteFrame(
            f"{failed}; it could not be made again in {time.monotonic() - began_s:.0f} s:"
            f" {reason(last)}"
        ) from last

    def _plugged(self, received: int) -> tuple[Process, int]:
        message = encode(TakeUp(position=received)).decode()
        process = self._link.run(plug_command(self._socket_path, message))
        try:
            process.patience(ANSWER_S)
            greeting = b""
            while len(greeting) < len(PLUGGED) + COUNT.size:
                piece = process.read(len(PLUGGED) + COUNT.size - len(greeting))
                greeting += piece
                self._check(greeting, piece, process)
        except BaseException:
            process.close()
            raise
        (position,) = COUNT.unpack(greeting[len(PLUGGED) :])
        return process, position

    def _check(self, greeting: bytes, piece: bytes, process: Process) -> None:
        """Raise IncompleteFrame if no agent answers, and PeerEnded if there is none any more.

        Without an agent no other try is of use.

        `piece` is the last one of what has come so far.
        """
        if greeting and not greeting.startswith(PLUGGED):
            raise IncompleteFrame("what answers there is no agent")
        if not piece:
            if process.wait() == NO_AGENT:
                self.leave()
                raise PeerEnded("the agent there has ended")
            raise IncompleteFrame("the connection was lost again")
