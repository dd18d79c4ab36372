"""A target whose answers a test writes."""

from __future__ import annotations

import socket
import threading
from typing import cast

from checkpoint.host.ready import ready
from migrate.agent.client import AgentClient
from migrate.wire.protocol import Answer, Command, decode, encode
from transport.connection import Connection
from transport.errors import IncompleteFrame
from transport.framing import Descriptors, FrameStream

#: The longest wait for an answer, in seconds: a question that no test answers fails then.
LONGEST_S = 30


class Process:
    """An agent's process on the target, of which the test has the other end."""

    def __init__(self, end: socket.socket) -> None:
        self._stream = Descriptors(end.fileno(), end.fileno())
        self._end = end
        self._patience_s: float = LONGEST_S

    def read_into(self, view: memoryview) -> int:
        if not ready(self._end.fileno(), timeout_s=self._patience_s):
            raise IncompleteFrame("timed out")
        return self._stream.read_into(view)

    def write(self, data: bytes | memoryview) -> None:
        if bytes(data[4:6]) != b"PK":  # the archive of the agent
            self._stream.write(data)

    def read_errors(self, size: int) -> bytes:
        return b""

    def patience(self, seconds: float | None) -> None:
        self._patience_s = LONGEST_S if seconds is None else min(seconds, LONGEST_S)

    def close(self) -> None:
        self._end.shutdown(socket.SHUT_RDWR)

    def ended(self) -> bool:
        return True

    def wait(self) -> int:
        return 0


class AnotherWay:
    """Another connection to a target, where an agent gives one answer, or ends before it does."""

    def __init__(self, answer: Answer | None) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._frames = FrameStream(Descriptors(self._theirs.fileno(), self._theirs.fileno()))
        if answer is not None:
            self._frames.send(encode(answer))
        self._theirs.shutdown(socket.SHUT_WR)

    def run(self, command: str) -> Process:
        return Process(self._ours)

    def asked(self) -> Command:
        """Return what the agent was asked."""
        return decode(*self._frames.receive(), Command)

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


class Target:
    """A target with `agent`, the client of its agent, which answers what `will_say` was given."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._theirs, self._ours = theirs, ours
        self._frames = FrameStream(Descriptors(theirs.fileno(), theirs.fileno()))
        self.notes: list[str] = []
        process = Process(ours)

        class Connected:
            def run(self, command: str) -> Process:
                return process

        self.agent = AgentClient(cast(Connection, Connected()), self.notes.append)
        self.asked: list[Command] = []
        self._thread: threading.Thread | None = None

    def will_say(self, *answers: Answer | bytes) -> None:
        """Take the next question in a thread, enter it in `asked`, and answer by these frames."""

        def answer() -> None:
            self.asked.append(decode(*self._frames.receive(), Command))
            for each in answers:
                self._frames.send(each if isinstance(each, bytes) else encode(each))

        self._thread = threading.Thread(target=answer)
        self._thread.start()

    def join(self) -> None:
        """Wait until the answers of `will_say` are sent."""
        assert self._thread is not None
        self._thread.join()

    def hang_up(self) -> None:
        """End the target's side of the channel."""
        self._theirs.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._ours.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(10)
        self._theirs.close()
        self._ours.close()
