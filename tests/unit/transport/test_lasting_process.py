"""Tests of transport/lasting_process.py: each byte comes once, over whichever process."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest

from checkpoint.host.worker import Worker
from tests.rig import until
from transport.connection import Process
from transport.errors import EndOfStream, IncompleteFrame, StreamError, TooSlow
from transport.lasting_process import LastingProcess

T = TypeVar("T")
#: A limit, in seconds, that only a failure reaches.
LIMIT_S = 20.0
#: More bytes than any test has.
ALL = 1 << 40


class Line:
    """A Process to a peer, which says its bytes from `start` on.

    The connection breaks with a write of more than `takes` bytes in all, of which `arrives` come at
    the peer, and with a read when the peer has said `gives` bytes: the stream `ends`, or raises.
    """

    def __init__(self, peer: Peer, start: int = 0, *, ends: bool = False, **faults: int) -> None:
        takes, arrives, gives = (faults.get(name, ALL) for name in ("takes", "arrives", "gives"))
        self._peer, self._at, self._end = peer, start, start + gives
        self._takes, self._arrives, self._ends = takes, arrives, ends
        self._changed = threading.Condition()
        self.broken = self.closed = self.slow = False
        self.reading, self.was_read = threading.Event(), threading.Event()
        self.patiences: list[float | None] = []
        self.input_ended = False

    def read_into(self, view: memoryview) -> int:
        self.reading.set()
        try:
            with self._changed:
                assert self._changed.wait_for(self._has_something, LIMIT_S), "it waits for ever"
            return self._read(view)
        finally:
            self.was_read.set()

    def _has_something(self) -> bool:
        has_ended = self.broken or self._at >= self._end
        return has_ended or self.slow or self._at < len(self._peer.says)

    def _read(self, view: memoryview) -> int:
        if self.slow:
            raise TooSlow("nothing came in time")
        if self.broken or self._at >= self._end:
            if self._ends:
                return 0
            raise IncompleteFrame("the line broke")
        piece = self._peer.says[self._at : min(self._at + len(view), self._end)]
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def write(self, data: bytes | memoryview) -> None:
        if self.slow:
            raise TooSlow("nothing was taken in time")
        with self._changed:  # when `close` returns, nothing arrives any more
            if not self.broken:
                arriving = bytes(data[: min(self._arrives, self._takes)])
                self._peer.came += arriving
                self._arrives -= len(arriving)
                self._takes -= len(data)
            if self.broken or self._takes < 0:
                self.lose()
                raise IncompleteFrame("the line broke")

    def lose(self) -> None:
        """Have all reads and writes fail, also those that wait."""
        with self._changed:
            self.broken = True
            self._changed.notify_all()

    def close(self) -> None:
        self.closed = True
        self.lose()

    def patience(self, seconds: float | None) -> None:
        self.patiences.append(seconds)

    def read(self, size: int) -> bytes:
        raise NotImplementedError

    def read_errors(self, size: int) -> bytes:
        return f"errors of line {self._peer.lines.index(self)}"[:size].encode()

    def end_input(self) -> None:
        self.input_ended = True

    def ended(self) -> bool:
        return self.broken

    def wait(self) -> int:
        return self._peer.lines.index(self)


class Peer:
    """The other end of all lines. `came` is what has come; `says` is what it says in all.

    `reopen` is a Reopen, which gives the lines of `spare`, then faultless ones.
    """

    def __init__(self, says: bytes = b"") -> None:
        self.came, self.says = bytearray(), says
        self.lines: list[Line] = []
        self.spare: list[Callable[[int], Line]] = []
        #: With what `reopen` was called.
        self.received: list[int] = []
        self.failures: list[StreamError] = []
        self.refuses: StreamError | None = None
        #: `reopen` waits for `may_reopen`.
        self.reopening, self.may_reopen = threading.Event(), threading.Event()
        self.may_reopen.set()

    def line(self, line: Line) -> Line:
        self.lines.append(line)
        return line

    def reopen(self, received: int, failed: StreamError) -> tuple[Process, int]:
        self.received.append(received)
        self.failures.append(failed)
        assert self.lines[-1].closed, "nobody needs the old one any more"
        self.reopening.set()
        assert self.may_reopen.wait(LIMIT_S)
        if self.refuses is not None:
            raise self.refuses
        line = self.spare.pop(0)(received) if self.spare else Line(self, received)
        return self.line(line), len(self.came)


def lasting(peer: Peer, line: Line) -> LastingProcess:
    process = LastingProcess(peer.line(line))
    process.last(peer.reopen)
    return process


def read(process: LastingProcess, size: int) -> bytes:
    """Read so many bytes, by reads of three."""
    found = b""
    while len(found) < size:
        piece = process.read(min(3, size - len(found)))
        assert piece, "the stream ended"
        found += piece
    return found


def in_time(worker: Worker[T]) -> T:
    assert worker.wait(LIMIT_S), "it waits for ever"
    return worker.result()


@pytest.mark.parametrize(
    ("takes", "arrives"), [(0, 0), (1, 1), (6, 6), (6, 4), (6, 0), (7, 7), (9, 8), (11, 2)]
)
def test_what_was_written_before_and_after_a_loss_comes_once(takes: int, arrives: int) -> None:
    """Pieces may be lost on their way, and parts of pieces, before the loss is noticed."""
    peer = Peer()
    process = LastingProcess(peer.line(Line(peer, takes=3 + takes, arrives=3 + arrives)))
    process.write(b"abc")
    process.last(peer.reopen)
    for piece in (b"def", b"", memoryview(b"-ghi-")[1:4], b"jklmn", b"op"):
        process.write(piece)
    assert peer.came == b"abcdefghijklmnop"
    assert process.position == 16
    assert (process.renewed, peer.received, process.is_lost) == (1, [0], False)


def test_what_is_written_while_another_connection_is_made_comes_once() -> None:
    peer = Peer()
    process = lasting(peer, Line(peer, takes=4, arrives=2))
    peer.may_reopen.clear()
    first = Worker("first", lambda: process.write(b"abcdef"))
    assert peer.reopening.wait(LIMIT_S)
    assert process.is_lost
    second = Worker("second", lambda: process.write(b"ghi"))
    until(lambda: process.position == 9, "the second write")
    assert peer.came == b"ab"
    peer.may_reopen.set()
    in_time(first)
    in_time(second)
    assert peer.came == b"abcdefghi"
    assert (process.renewed, len(peer.failures)) == (1, 1)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("gives", [0, 1, 3, 4, 9])
def test_the_reads_go_on_where_they_were(gives: int, ends: bool) -> None:
    peer = Peer(b"0123456789")
    process = lasting(peer, Line(peer, gives=gives, ends=ends))
    assert read(process, 10) == b"0123456789"
    assert (process.renewed, peer.received) == (1, [gives])
    assert type(peer.failures[0]) is (EndOfStream if ends else IncompleteFrame)


def test_what_was_read_before_is_counted_too() -> None:
    peer = Peer(b"0123456789")
    process = LastingProcess(peer.line(Line(peer, gives=5)))
    assert read(process, 4) == b"0123"
    process.last(peer.reopen)
    assert read(process, 6) == b"456789"
    assert peer.received == [5]


@pytest.mark.parametrize("first", ["reader", "writer"])
def test_two_threads_that_notice_the_loss_make_one_other_connection(first: str) -> None:
    peer = Peer()
    line = Line(peer, takes=3, arrives=1)
    process = lasting(peer, line)
    reader = Worker("reader", lambda: read(process, 4))
    assert line.reading.wait(LIMIT_S)
    peer.may_reopen.clear()
    if first == "reader":
        line.lose()
        assert peer.reopening.wait(LIMIT_S)
    writer = Worker("writer", lambda: process.write(b"abcdef"))
    until(lambda: process.position == 6, "the write")
    assert peer.reopening.wait(LIMIT_S)
    assert line.was_read.wait(LIMIT_S), "the wait of the reader is over"
    peer.says = b"0123"
    peer.may_reopen.set()
    assert in_time(reader) == b"0123"
    in_time(writer)
    assert peer.came == b"abcdef"
    assert (process.renewed, len(peer.failures)) == (1, 1)


def test_a_peer_that_is_too_slow_is_not_lost() -> None:
    peer = Peer(b"0123")
    line = Line(peer)
    process = lasting(peer, line)
    line.slow = True
    with pytest.raises(TooSlow):
        process.read(4)
    with pytest.raises(TooSlow):
        process.write(b"ab")
    assert (peer.failures, process.is_lost, line.closed) == ([], False, False)
    line.slow = False
    assert read(process, 4) == b"0123"


@pytest.mark.parametrize("later", ["settle", "close", "never"])
def test_who_outlasts_nothing_is_told_of_a_loss(later: str) -> None:
    peer = Peer()
    line = peer.line(Line(peer))
    process = LastingProcess(line)
    if later != "never":
        process.last(peer.reopen)
        process.write(b"ab")
        process.settle() if later == "settle" else process.close()
    if later != "close":
        process.write(b"cd")
        line.lose()
    assert line.closed == (later == "close")
    for _ in range(2):
        with pytest.raises(IncompleteFrame, match="the line broke"):
            process.read(1)
        with pytest.raises(IncompleteFrame, match="the line broke"):
            process.write(b"ef")
    assert (peer.failures, process.is_lost) == ([], False)


@pytest.mark.parametrize("later", ["settle", "never"])
def test_who_outlasts_nothing_reads_the_end_of_the_stream(later: str) -> None:
    peer = Peer(b"01")
    process = LastingProcess(peer.line(Line(peer, gives=2, ends=True)))
    if later == "settle":
        process.last(peer.reopen)
        process.settle()
    assert [process.read(2), process.read(2), process.read(2)] == [b"01", b"", b""]
    assert (peer.failures, process.is_lost) == ([], False)


@pytest.mark.parametrize("first", ["reader", "writer"])
def test_without_another_connection_every_read_and_write_fails(first: str) -> None:
    """Also those of a thread that waits for the connection meanwhile."""
    peer = Peer()
    line = Line(peer)
    process = lasting(peer, line)
    peer.refuses = IncompleteFrame("no luck")
    peer.may_reopen.clear()
    acts = {"reader": lambda: process.read(1), "writer": lambda: process.write(b"a")}
    line.lose()
    workers = [Worker(first, acts.pop(first))]
    assert peer.reopening.wait(LIMIT_S)
    workers += [Worker(name, act) for name, act in acts.items()]
    until(lambda: process.position == 1, "the write")
    peer.may_reopen.set()
    for worker in workers:
        assert worker.wait(LIMIT_S), "it waits for ever"
        assert isinstance(worker.failure, IncompleteFrame)
    assert process.is_lost
    for _ in range(2):
        with pytest.raises(IncompleteFrame, match="no luck"):
            process.read(1)
        with pytest.raises(IncompleteFrame, match="no luck"):
            process.write(b"b")
    assert (len(peer.failures), process.renewed) == (1, 0)


@pytest.mark.parametrize("arrives", [0, 2, 4, 5])
def test_another_connection_that_breaks_too_has_another_made(arrives: int) -> None:
    peer = Peer(b"0123")
    process = lasting(peer, Line(peer, takes=8, arrives=1, gives=2))
    assert read(process, 2) == b"01"
    peer.spare += [
        lambda received: Line(peer, received, takes=5, arrives=arrives),
        lambda received: Line(peer, received, takes=0),
    ]
    for piece in (b"abc", b"def", b"ghi"):
        process.write(piece)
    assert read(process, 2) == b"23"
    assert peer.came == b"abcdefghi"
    assert (process.renewed, peer.received) == (1, [2, 2, 2])
    assert [line.closed for line in peer.lines] == [True, True, True, False]


@pytest.mark.parametrize("confirmed", [True, False])
def test_what_the_peer_is_known_to_have_is_not_kept(confirmed: bool) -> None:
    process = lasting(peer := Peer(), Line(peer))
    process.write(b"abc")
    process.write(b"de")
    if confirmed:
        process.confirmed(4)
    else:
        peer.came[:] = b"abcd"
        peer.lines[-1].lose()
        process.write(b"")
    peer.came[:] = b"ab"
    peer.lines[-1].lose()
    with pytest.raises(IncompleteFrame, match="the peer has 2 bytes of 6, of which 3 are gone"):
        process.write(b"f")
    assert process.is_lost


def test_the_patience_is_that_of_the_other_connection_too() -> None:
    peer = Peer(b"0")
    line = Line(peer, gives=0)
    process = lasting(peer, line)
    process.patience(7.5)
    assert process.read(1) == b"0"
    process.patience(None)
    peer.lines[-1].lose()
    process.write(b"a")
    assert [line.patiences for line in peer.lines] == [[7.5], [7.5, None], [None]]


def test_other_questions_are_for_the_process_there_is() -> None:
    """But for stderr: what comes in the place of the first command has none."""
    peer = Peer()
    process = lasting(peer, Line(peer, takes=0))
    process.write(b"a")
    process.end_input()
    assert [line.input_ended for line in peer.lines] == [False, True]
    assert (process.ended(), process.wait()) == (False, 1)
    assert process.read_errors(100) == b"errors of line 0"


@pytest.mark.parametrize("seed", range(30))
def test_both_directions_are_whole_wherever_connections_break(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    sent, said = chance.randbytes(4000), chance.randbytes(4000)
    peer = Peer(said)

    def frail(received: int) -> Line:
        takes = chance.randrange(1200)
        arrives, gives = chance.randint(0, takes), chance.randrange(1200)
        return Line(
            peer, received, takes=takes, arrives=arrives, gives=gives, ends=chance.random() < 0.5
        )

    peer.spare += [frail] * 12
    process = lasting(peer, frail(0))
    reader = Worker("reader", lambda: read(process, len(said)))
    for at in range(0, len(sent), step := 1 + seed * 37 % 211):
        process.write(sent[at : at + step])
        process.confirmed(len(peer.came))
    assert in_time(reader) == said
    assert len(peer.failures) > 3
    peer.spare.clear()
    peer.lines[-1].lose()  # now at last it shows what was lost on its way
    process.write(b"")
    assert peer.came == sent
