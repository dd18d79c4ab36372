"""Tests of migrate/agent/client.py: answers of a hostile target, late answers, and none."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from checkpoint.files.changes import FileState
from migrate import logs
from migrate.agent import client
from migrate.agent.client import MOST_LOGGED, AgentClient
from migrate.limits import Limits
from migrate.link import WayBack
from migrate.wire import protocol
from migrate.wire.failures import AgentFailed, AgentGone
from migrate.wire.protocol import Command, ProtocolError, Request
from tests.unit.migrate.answering import Process, Target
from transport.connection import Connection
from transport.errors import IncompleteFrame, StreamError
from transport.framing import Descriptors, FrameStream


def test_an_answer_to_another_question_is_refused(target: Target) -> None:
    target.will_say(protocol.TmpfsMade(paths=()))
    with pytest.raises(ProtocolError, match="answered Ping by TmpfsMade"):
        target.agent.request(protocol.Ping())


@pytest.mark.parametrize(
    "said", [b"{}", b'{"type":"Clock"}', b'{"type":"Clock","monotonic_ns":-1}', b'{"type":"Ping"}']
)
def test_an_answer_that_is_no_message_is_refused(target: Target, said: bytes) -> None:
    target.will_say(said)
    with pytest.raises(ProtocolError):
        target.agent.request(protocol.Ping())


def test_lines_without_end_are_not_listened_to(target: Target) -> None:
    target.will_say(*[protocol.Log(text=f"line {n}") for n in range(MOST_LOGGED + 1)])
    with pytest.raises(ProtocolError, match="and no answer"):
        target.agent.request(protocol.Ping())
    assert len(target.notes) == MOST_LOGGED


TRACE = protocol.Trace(at_ms=86_400_123, thread="pager", logger="checkpoint.memory", text="filled")


def test_records_of_the_targets_log_are_entered_with_its_name_and_its_time(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    target.agent.traces_of = "beta"
    target.will_say(TRACE, protocol.Clock(monotonic_ns=1, batches=0))
    with caplog.at_level(logging.DEBUG, logger="migrate"):
        target.agent.request(protocol.Ping())
    line = logs.formatter().format(caplog.records[0])
    assert re.fullmatch(r"\d\d:00:00\.123 beta pager checkpoint\.memory: filled", line)
    assert target.notes == []


def test_records_that_were_not_asked_for_are_no_answer(target: Target) -> None:
    target.will_say(TRACE, protocol.Clock(monotonic_ns=1, batches=0))
    with pytest.raises(ProtocolError, match="not asked for"):
        target.agent.request(protocol.Ping())
    target.join()


def test_records_without_end_are_not_listened_to(target: Target) -> None:
    target.agent.traces_of = "beta"
    target.will_say(*[TRACE] * (MOST_LOGGED + 1))
    with pytest.raises(ProtocolError, match="and no answer"):
        target.agent.request(protocol.Ping())


def test_what_the_target_says_is_harmless_to_a_terminal(target: Target) -> None:
    evil = "\x1b]0;evil\x07"
    target.will_say(
        protocol.Log(text=evil), protocol.Failed(kind="OSError", text=evil, detail=(evil,))
    )
    with pytest.raises(AgentFailed) as caught:
        target.agent.request(protocol.Ping())
    assert target.notes == [str(caught.value)] == list(caught.value.detail) == [r"\x1b]0;evil\x07"]


def test_a_long_answer_comes_in_pieces(target: Target) -> None:
    pieces = [
        protocol.TreeListed(files=(FileState(f"file-{n}", n, n, n),), more=n < 9) for n in range(10)
    ]
    target.will_say(protocol.Log(text="a line"), *pieces)
    assert list(target.agent.request_all(protocol.ListTree(tree="/", paths=None))) == pieces


def test_an_answer_that_was_not_waited_for_is_passed_over_in_all_its_pieces(target: Target) -> None:
    """A signal may end the wait for an answer in several pieces."""
    target.will_say(protocol.TreeListed(files=(FileState("a", 1, 1, 1),), more=True))
    waiting = target.agent.request_all(protocol.ListTree(tree="/", paths=None))
    next(waiting)
    waiting.close()
    target.join()
    target.will_say(
        protocol.TreeListed(files=(FileState("b", 1, 1, 1),), more=True),
        protocol.TreeListed(files=(), more=False),
        DONE,
    )
    assert target.agent.request(protocol.Abort()) == DONE


def answer_by_no_message(target: Target, asked: Request[Any]) -> None:
    """Have the target answer by a frame that is no message.

    The frame may have been a line of the target's log as well as its answer.
    """
    target.will_say(b"no JSON")
    with pytest.raises(ProtocolError):
        target.agent.request(asked)
    target.join()


def test_an_answer_behind_a_frame_that_is_no_message_is_not_that_to_the_next_question(
    target: Target,
) -> None:
    answer_by_no_message(target, protocol.Ping())
    target.will_say(CLOCK, DONE)
    assert target.agent.request(protocol.Abort()) == DONE
    target.will_say(CLOCK)
    assert target.agent.request(protocol.Ping()) == CLOCK


def test_a_frame_that_is_no_message_may_have_been_the_answer(target: Target) -> None:
    answer_by_no_message(target, protocol.Ping())
    target.will_say(DONE)
    assert target.agent.request(protocol.Abort()) == DONE


def test_an_answer_to_another_question_may_be_followed_by_the_right_one(target: Target) -> None:
    target.will_say(protocol.TmpfsMade(paths=()), CLOCK)
    with pytest.raises(ProtocolError):
        target.agent.request(protocol.Ping())
    target.join()
    target.will_say(DONE)
    assert target.agent.request(protocol.Abort()) == DONE


def test_an_answer_that_may_be_to_the_question_before_is_not_believed(target: Target) -> None:
    answer_by_no_message(target, protocol.Ping())
    for _ in range(2):
        target.will_say(CLOCK)
        with pytest.raises(ProtocolError, match="may be the answer to an earlier Ping"):
            target.agent.request(protocol.Ping())
        target.join()


def test_pieces_without_end_are_not_passed_over_for_ever(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MOST_PIECES", 8)
    answer_by_no_message(target, protocol.ListTree(tree="/", paths=None))
    target.will_say(*[protocol.TreeListed(files=(FileState("a", 1, 1, 1),), more=True)] * 9)
    with pytest.raises(ProtocolError, match="without end"):
        target.agent.request(protocol.Abort())


CLOCK = protocol.Clock(monotonic_ns=1, batches=0)
DONE = protocol.Done()


#: A bound that no test reaches.
SEND_S = 20.0


class Recorded(Process):
    """An agent's process that fails as `error` says, and has the bounds that it was given."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(end)
        self.bounds: list[float | None] = []
        self.error: StreamError | None = None
        self.tries = 0

    def patience(self, seconds: float | None) -> None:
        self.bounds.append(seconds)

    def write(self, data: bytes | memoryview) -> None:
        self._try()
        super().write(data)

    def read_into(self, view: memoryview) -> int:
        self._try()
        return super().read_into(view)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # its socket is closed
            super().close()

    def _try(self) -> None:
        self.tries += 1
        if self.error is not None:
            raise self.error


class Slow:
    """The client of an agent that may be slow."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self.process = process = Recorded(self._ours)

        class Connected:
            def run(self, command: str) -> Process:
                return process

        self.agent = AgentClient(cast(Connection, Connected()), lambda _: None, send_s=SEND_S)
        self.process.tries = 0
        self.frames = FrameStream(Descriptors(self._theirs.fileno(), self._theirs.fileno()))

    def asked(self) -> Command:
        """Return the next command that the agent got."""
        return protocol.decode(*self.frames.receive(), Command)

    def close(self) -> None:
        self.agent.close()
        self._ours.close()
        self._theirs.close()


@pytest.fixture
def slow() -> Iterator[Slow]:
    found = Slow()
    yield found
    found.close()


def test_an_agent_hears_a_beat_while_nothing_else_is_sent(slow: Slow) -> None:
    slow.agent.keep_beating(0.001)
    for _ in range(3):
        assert slow.asked() == protocol.Beat()


@pytest.mark.parametrize("in_pieces", [False, True])
def test_no_answer_is_waited_for_without_end(
    slow: Slow, monkeypatch: pytest.MonkeyPatch, in_pieces: bool
) -> None:
    monkeypatch.setattr(slow.process, "read_into", times_out)
    with pytest.raises(AgentGone):
        if in_pieces:
            next(slow.agent.request_all(protocol.Abort()))
        else:
            slow.agent.request(protocol.Abort())
    [bound] = [each for each in slow.process.bounds if each not in (None, SEND_S)]
    assert bound == pytest.approx(Limits.answer_s, abs=5)


def times_out(_: memoryview) -> int:
    raise IncompleteFrame("timed out")


def test_each_frame_is_sent_in_time(slow: Slow) -> None:
    slow.agent.stream(protocol.Beat())
    assert slow.process.bounds == [SEND_S, None]


def test_an_agent_that_takes_no_frame_in_time_is_asked_no_more(slow: Slow) -> None:
    """The frame may be there in part."""
    slow.process.error = StreamError("it took too long")
    with pytest.raises(AgentGone, match="it took too long"):
        slow.agent.ask(protocol.Ping())
    assert slow.process.bounds == [SEND_S, None]
    slow.process.error, tries = None, slow.process.tries
    with pytest.raises(AgentGone, match="did not answer an earlier request in time"):
        slow.agent.ask(protocol.Ping())
    assert slow.process.tries == tries


@pytest.mark.parametrize("timeout_s", [0, SEND_S])
def test_an_agent_that_does_not_answer_in_time_is_asked_no_more(
    slow: Slow, timeout_s: float
) -> None:
    """A lost connection is told in time, and each later request tells of it again."""
    slow.agent.ask(protocol.Ping())
    slow.process.error = StreamError("nothing came")
    with pytest.raises(AgentGone, match="nothing came"):
        slow.agent.answer(protocol.Ping(), timeout_s=timeout_s)
    expected = "nothing came" if timeout_s else "did not answer an earlier request in time"
    with pytest.raises(AgentGone, match=expected):
        slow.agent.ask(protocol.Ping())


class Back:
    """A way back to an agent that has `position` bytes, by `other`, once; then there is none.

    The thread that finds none stays until the way is `over`.
    """

    def __init__(self, other: Slow | None) -> None:
        self.other, self.position = other, 0
        self.called, self.left, self.over = (threading.Event() for _ in range(3))

    def __call__(self, received: int, failed: StreamError) -> tuple[Process, int]:
        self.called.set()
        if self.other is None:
            assert self.over.wait(SEND_S)
            raise IncompleteFrame("it could not be made again")
        process, self.other = self.other.process, None
        self.over.set()
        return process, self.position

    def leave(self) -> None:
        self.left.set()


def outlasting(slow: Slow, other: Slow | None = None) -> Back:
    """Have the agent outlast its connection, with a way back by `other`."""
    back = Back(other)
    slow.frames.send(protocol.encode(DONE))
    slow.agent.outlast(cast(WayBack, back), 90)
    assert slow.asked() == protocol.Outlast(seconds=90)
    return back


@pytest.fixture
def other() -> Iterator[Slow]:
    """Yield another connection to the agent."""
    with contextlib.closing(Slow()) as found:
        yield found


BROKE = StreamError("the link broke")


def test_a_connection_that_was_lost_is_there_again_after_the_next_question(
    slow: Slow, other: Slow
) -> None:
    back = outlasting(slow, other)
    for frames in (slow.frames, other.frames):
        frames.send(protocol.encode(CLOCK))
    assert not slow.agent.is_renewed(0)
    back.position = slow.agent.sent_bytes
    slow.process.error = BROKE
    assert slow.agent.renewed == 0
    assert slow.agent.is_renewed(0)
    assert (slow.agent.renewed, other.asked()) == (1, protocol.Ping())


@pytest.mark.parametrize("lacking", [0, 1])
def test_an_answer_tells_that_all_before_its_request_has_come(
    slow: Slow, other: Slow, lacking: int
) -> None:
    """The request and what follows can be sent again. An agent that lacks more cannot go on."""
    back = outlasting(slow, other)
    slow.agent.stream(protocol.Beat())
    back.position = slow.agent.sent_bytes - lacking
    slow.frames.send(protocol.encode(CLOCK))
    slow.agent.request(protocol.Ping())
    slow.process.error = BROKE
    other.frames.send(protocol.encode(DONE))
    if lacking:
        with pytest.raises(AgentGone):
            slow.agent.request(protocol.Abort())
    else:
        assert slow.agent.request(protocol.Abort()) == DONE
        assert [other.asked(), other.asked()] == [protocol.Ping(), protocol.Abort()]


def test_once_settled_a_connection_that_is_lost_is_not_made_anew(slow: Slow, other: Slow) -> None:
    back = outlasting(slow, other)
    slow.agent.settle()
    slow.frames.send(protocol.encode(CLOCK))
    assert slow.agent.request(protocol.Ping()) == CLOCK
    slow.process.error = BROKE
    with pytest.raises(AgentGone, match="the link broke"):
        slow.agent.request(protocol.Ping())
    assert not back.called.is_set()


def test_an_agent_whose_connection_is_lost_when_it_is_settled_is_asked_no_more(slow: Slow) -> None:
    """Another thread may be on the way back then. Nobody waits for it."""
    back = outlasting(slow)
    slow.process.error = BROKE
    slow.agent.keep_beating(0.001)
    assert back.called.wait(SEND_S)
    slow.agent.settle()
    assert back.left.is_set()
    with pytest.raises(AgentGone, match="did not answer an earlier request in time"):
        slow.agent.ask(protocol.Ping())
    back.over.set()
