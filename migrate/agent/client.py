"""The coordinator's end of the agent's channel: it starts the agent and sends it commands."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TypeVar, cast

from checkpoint.host.worker import Worker
from checkpoint.schema import harmless
from migrate.agent import zipapp
from migrate.decisions.clock import Offset, Sample, estimate
from migrate.limits import Limits
from migrate.link import WayBack
from migrate.wire import protocol
from migrate.wire.failures import AgentEnded, AgentFailed, AgentGone
from migrate.wire.protocol import Answer, Command, ProtocolError, Request
from transport.connection import Connection
from transport.errors import EndOfStream, FrameInvalid, PeerEnded, StreamError
from transport.framing import FrameStream
from transport.lasting_process import LastingProcess

log = logging.getLogger(__name__)
A = TypeVar("A", bound=Answer)
CLOCK_SAMPLES = 16
#: An answer has at most so many pieces, and comes after at most so many lines of log. A target
#: that sends more is broken.
MOST_PIECES, MOST_LOGGED = 4096, 256


class AgentClient:
    """An agent that runs on the target, started over `connection`.

    `log` takes the agent's lines for people, and those on its standard error once it has answered.
    The connection must take each frame within `send_s` seconds; None is no bound.
    `traces_of` is the target's name in records of the agent's own log, if Hello asks for them.
    Raises AgentGone if the agent could not be sent.
    """

    def __init__(
        self,
        connection: Connection,
        log: Callable[[str], None],
        *,
        traces_of: str | None = None,
        send_s: float | None = None,
    ) -> None:
        self.traces_of, self._send_s = traces_of, send_s
        started = connection.run(zipapp.command())
        self._process = LastingProcess(started)
        self._frames = FrameStream(self._process)
        self._log = log
        self._said: list[str] = []
        self._greeted = False
        self._unanswered = self._asked_ns = 0
        self._way_back: WayBack | None = None
        #: Where the last request begins in all that was sent.
        self._position = 0
        #: The classes of answers that may still come, although another frame was taken for them.
        self._doubted: set[type[Answer]] = set()
        self._closed = threading.Event()
        #: The agent has not answered, or taken a frame, in time. It may hang, and is asked no more.
        self._silent = False
        self._drain = Worker("agent stderr", self._read_errors)
        try:
            started.write(zipapp.pack())
        except StreamError as error:
            raise self._gone(error) from error

    def keep_beating(self, interval_s: float) -> None:
        """Send a Beat whenever nothing was sent for `interval_s` seconds, until `close`."""
        Worker("heartbeat", partial(self._beat, interval_s))

    def _beat(self, interval_s: float) -> None:
        sent_bytes = 0
        while not self._closed.wait(interval_s):
            if self.sent_bytes == sent_bytes:
                self._frames.send(protocol.encode(protocol.Beat()))
            sent_bytes = self.sent_bytes

    def outlast(self, way_back: WayBack, seconds: int) -> None:
        """Have both ends outlast the connection until `settle`: the agent waits for `seconds`.

        The thread that notices first goes the way back.
        """
        self._way_back = way_back
        self._process.last(way_back)
        self.request(protocol.Outlast(seconds=seconds))

    def settle(self) -> None:
        """Outlast no connection any more. If it is lost now, the agent is asked nothing more."""
        if self._way_back is not None:
            self._way_back.leave()
            self._process.settle()
            self._silent |= self._process.is_lost

    @property
    def renewed(self) -> int:
        """How often another connection took the place of a lost one."""
        return self._process.renewed

    def is_renewed(self, before: int) -> bool:
        """Return whether the connection was lost since `renewed` was `before`.

        If it was, it is there again when this returns; what failed meanwhile can be tried again.
        Raises as `request` does.
        """
        self.request(protocol.Ping())
        return self.renewed != before

    def request(
        self,
        message: Request[A],
        parts: Sequence[bytes | memoryview] = (),
        *,
        timeout_s: float = Limits.answer_s,
    ) -> A:
        """Send a request, with `parts`, joined, as its payload, and return its answer.

        `timeout_s` bounds the wait for the answer. Raises as `ask` and `answer` do.
        """
        self.ask(message, parts)
        return self.answer(message, timeout_s=timeout_s)

    def request_all(
        self, message: Request[A], parts: Sequence[bytes | memoryview] = ()
    ) -> Generator[A, None, None]:
        """Send a request, and yield the pieces of its answer one after the other.

        Take all pieces before the next request; each may take as long as an answer. Raises as
        `request` does, and ProtocolError for more than MOST_PIECES pieces.
        """
        self.ask(message, parts)
        for _ in range(MOST_PIECES):
            answer = self._piece(message, time.monotonic() + Limits.answer_s)
            yield answer
            if answer.is_last:
                return
        raise ProtocolError(f"the target answered {type(message).__name__} without end")

    def ask(self, message: Request[A], parts: Sequence[bytes | memoryview] = ()) -> None:
        """Send a request; `answer` then returns its answer.

        Raises AgentGone if the request was not sent to its end: the agent then does not obey it.
        Raises FrameInvalid if the request is too large: then nothing was sent.
        """
        if self._silent:
            raise self._gone("it did not answer an earlier request in time")
        self._position = self._process.position
        self.stream(message, parts)
        self._unanswered += 1
        self._asked_ns = time.monotonic_ns()

    def answer(self, message: Request[A], *, timeout_s: float = Limits.answer_s) -> A:
        """Return the answer to the request that was sent last.

        Raises AgentFailed if the agent could not do what was requested, ProtocolError for a
        message that is no answer to the request, and AgentGone if the channel has ended or the
        answer has not come within `timeout_s`.
        """
        answer = self._piece(message, time.monotonic() + timeout_s)
        if not answer.is_last:
            raise ProtocolError(f"the target answered {type(message).__name__} in pieces")
        return answer

    def _piece(self, message: Request[A], deadline: float) -> A:
        try:
            answer = self._next_answer(message.answer, deadline)
        except StreamError as error:
            self._silent |= time.monotonic() >= deadline
            raise self._gone(error) from error
        finally:
            self._process.patience(None)
        self._process.confirmed(
            self._position
        )  # an answer tells of all that came before its request
        self._greeted = True
        asked, ms = type(message).__name__, (time.monotonic_ns() - self._asked_ns) / 1e6
        log.debug("%s was answered by %s after %.1f ms", asked, type(answer).__name__, ms)
        if isinstance(answer, protocol.Failed):
            if self._doubted:  # it may be the answer to an earlier request
                self._doubted.add(message.answer)
            raise AgentFailed(answer.kind, answer.text, answer.detail)
        if not isinstance(answer, message.answer):
            self._doubted.add(message.answer)
            raise ProtocolError(f"the target answered {asked} by {type(answer).__name__}")
        if message.answer in self._doubted:
            raise ProtocolError(f"what came for {asked} may be the answer to an earlier {asked}")
        self._doubted.clear()
        return cast(A, answer)

    def _next_answer(self, wanted: type[Answer], deadline: float) -> Answer:
        """Return the answer to the last request, and pass on the lines of log before it.

        `wanted` is the class of that answer. The answer to a request whose wait was interrupted is
        ignored, and so is one of another class for which another frame was taken before. Raises
        StreamError, also after `deadline` (time.monotonic, seconds), and ProtocolError.
        """
        logged = ignored = 0
        while ignored <= MOST_PIECES:
            self._process.patience(max(0.001, deadline - time.monotonic()))
            frame = self._frames.receive()
            waited_for = self._unanswered == 1
            try:
                answer = protocol.decode(*frame, Answer)
            except ProtocolError:
                # An answer that cannot be read is one all the same. But it may have been a line of
                # log, and the answer is still to come.
                self._unanswered -= 1
                self._doubted.add(wanted)
                raise
            if isinstance(answer, protocol.Log | protocol.Trace):
                logged += 1
                if logged > MOST_LOGGED:
                    raise ProtocolError(f"the target sent {logged} lines and no answer")
                self._pass_on(answer)
                continue
            if type(answer) is not wanted and type(answer) in self._doubted:
                if answer.is_last:
                    self._doubted.discard(type(answer))
            else:
                self._unanswered -= answer.is_last
                if waited_for:
                    return answer
            ignored += 1
        raise ProtocolError("the target answered earlier requests without end")

    def _pass_on(self, line: protocol.Log | protocol.Trace) -> None:
        if isinstance(line, protocol.Log):
            self._log(line.text)
        elif self.traces_of is None:
            raise ProtocolError("the target sent a record of its log, which was not asked for")
        else:
            log.handle(_record(line, self.traces_of))

    def stream(self, message: Command, parts: Sequence[bytes | memoryview] = ()) -> None:
        """Send a command, with `parts`, joined, as its payload, and wait for no answer.

        Raises FrameInvalid if the command is too large: then nothing was sent. Raises AgentGone
        if the channel has ended.
        """
        self._process.patience(self._send_s)
        try:
            self._frames.send(protocol.encode(message), parts)
        except FrameInvalid:
            raise
        except StreamError as error:
            self._silent = True
            raise self._gone(error) from error
        finally:
            self._process.patience(None)

    @property
    def sent_bytes(self) -> int:
        """Bytes of frames sent so far, before encryption."""
        return self._frames.sent_bytes

    def clock_offset(self) -> Offset:
        """Estimate the offset between the source's and the target's CLOCK_MONOTONIC."""
        samples = []
        for _ in range(CLOCK_SAMPLES):
            asked = time.monotonic_ns()
            theirs = self.request(protocol.Ping()).monotonic_ns
            samples.append(
                Sample(asked_ns=asked, answered_ns=time.monotonic_ns(), theirs_ns=theirs)
            )
        return estimate(samples)

    def close(self) -> None:
        """Close the channel; an agent that holds no container then cleans up and ends."""
        self._closed.set()
        self._frames.close()

    def _read_errors(self) -> None:
        noted = 0
        while text := self._process.read_errors(4096):
            for line in map(harmless, text.decode(errors="replace").splitlines()):
                self._said = [*self._said[-9:], line]
                # Before its first answer the agent prints only why it fails; AgentGone quotes that.
                if self._greeted and noted < MOST_LOGGED:
                    noted += 1
                    self._log(f"agent: {line}")

    def _gone(self, failed: str | StreamError) -> AgentGone:
        # An agent that ends says why. One that only hangs says nothing, and nobody waits for that.
        self._drain.wait(0 if self._silent else 1.0)
        status = self._process.wait() if self._process.ended() else None
        said = self._said[-1] if self._said else ""
        if self._greeted and isinstance(failed, EndOfStream):  # on a connection that is there
            return AgentEnded("the agent there has ended", said, status)
        kind = AgentEnded if isinstance(failed, PeerEnded) else AgentGone
        return kind(str(failed), said, status)


def _record(trace: protocol.Trace, host: str) -> logging.LogRecord:
    """Return the record that the agent on `host` has logged, with the time of that host's clock."""
    return logging.makeLogRecord(
        {
            "name": trace.logger,
            "levelno": logging.DEBUG,
            "threadName": trace.thread,
            "msg": trace.text,
            "host": host,
            "created": trace.at_ms / 1000,
            "msecs": trace.at_ms % 1000,
        }
    )
