"""The coordinator's end of the agent: send it, ask it, stream to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, cast

from checkpoint.schema import harmless
from migrate import protocol
from migrate.agent import zipapp
from migrate.clock import Offset, Sample, estimate
from migrate.protocol import Answer, Command, ProtocolError, Request
from transport.connection import Connection, Process
from transport.errors import StreamError
from transport.framing import FrameStream

A = TypeVar("A", bound=Answer)
CLOCK_SAMPLES = 16
#: Of one answer, and lines of log before one: a target that sends more is broken.
MOST_PIECES, MOST_LOGGED = 4096, 256


class AgentFailed(Exception):
    """The agent answered a request with Failed. `kind` is the class of the error over there."""

    def __init__(self, kind: str, text: str, detail: Sequence[str]) -> None:
        self.kind, self.text, self.detail = kind, text, tuple(detail)
        super().__init__(text)


class AgentGone(Exception):
    """The channel to the agent ended. `said` is the last of its standard error, `status` its exit status."""

    def __init__(self, reason: str, said: str, status: int | None) -> None:
        self.said, self.status = said, status
        super().__init__(f"{reason}{': ' + said if said else ''}")


class AgentClient:
    """An agent running on the target."""

    def __init__(self, connection: Connection, log: Callable[[str], None]) -> None:
        self._process: Process = connection.run(zipapp.COMMAND)
        self._frames = FrameStream(self._process)
        self._log = log
        self._said: list[str] = []
        self._greeted = False
        self._unanswered = 0
        self._drain = threading.Thread(target=self._read_errors, name="agent stderr", daemon=True)
        self._drain.start()
        try:
            self._process.write(zipapp.pack())
        except StreamError as error:
            raise self._gone(str(error)) from error

    def request(self, message: Request[A], parts: Sequence[bytes | memoryview] = ()) -> A:
        """Send a request, `parts` joined as its payload, and return its answer.

        Raises AgentFailed, AgentGone, or ProtocolError for what is not an answer to it.
        """
        [answer] = self.request_all(message, parts)
        return answer

    def request_all(self, message: Request[A], parts: Sequence[bytes | memoryview] = ()) -> Iterator[A]:
        """Likewise for an answer in several pieces, one after the other; all must be taken."""
        self.stream(message, parts)
        self._unanswered += 1
        for _ in range(MOST_PIECES):
            answer = self._next_answer()
            self._greeted = True
            if isinstance(answer, protocol.Failed):
                raise AgentFailed(answer.kind, answer.text, answer.detail)
            if not isinstance(answer, message.answer):
                raise ProtocolError(f"the target answered {type(message).__name__} by {type(answer).__name__}")
            yield cast(A, answer)
            if answer.is_last:
                return
        raise ProtocolError(f"the target answered {type(message).__name__} without end")

    def _next_answer(self) -> Answer:
        """To the last request: what comes for one whose waiting was interrupted is passed over."""
        logged = 0
        try:
            while True:
                answer = protocol.decode(*self._frames.receive(), Answer)
                if isinstance(answer, protocol.Log):
                    logged += 1
                    if logged > MOST_LOGGED:
                        raise ProtocolError(f"the target sent {logged} lines and no answer")
                    self._log(answer.text)
                    continue
                waited_for = self._unanswered == 1
                self._unanswered -= answer.is_last
                if waited_for:
                    return answer
        except StreamError as error:
            raise self._gone(str(error)) from error

    def stream(self, message: Command, parts: Sequence[bytes | memoryview] = ()) -> None:
        """Send without waiting. `parts` joined are the payload. Raises AgentGone."""
        try:
            self._frames.send(protocol.encode(message), parts)
        except StreamError as error:
            raise self._gone(str(error)) from error

    @property
    def sent_bytes(self) -> int:
        """Bytes of frames sent so far, before encryption."""
        return self._frames.sent_bytes

    def clock_offset(self) -> Offset:
        """Estimate the target's clock against ours."""
        samples = []
        for _ in range(CLOCK_SAMPLES):
            asked = time.monotonic_ns()
            theirs = self.request(protocol.Ping()).monotonic_ns
            samples.append(Sample(asked_ns=asked, answered_ns=time.monotonic_ns(), theirs_ns=theirs))
        return estimate(samples)

    def close(self) -> None:
        """End the channel; an agent that holds no container cleans up and ends."""
        self._frames.close()

    def _read_errors(self) -> None:
        noted = 0
        while text := self._process.read_errors(4096):
            for line in map(harmless, text.decode(errors="replace").splitlines()):
                self._said = [*self._said[-9:], line]
                # Before it has greeted, what it says is the reason of the failure that follows.
                if self._greeted and noted < MOST_LOGGED:
                    noted += 1
                    self._log(f"agent: {line}")

    def _gone(self, reason: str) -> AgentGone:
        self._drain.join(1.0)
        status = self._process.wait() if self._process.ended() else None
        return AgentGone(reason, self._said[-1] if self._said else "", status)
