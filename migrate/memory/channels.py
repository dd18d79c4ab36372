"""The SSH channels that carry batches of pages to the agent.

sshd lets 2 MiB be under way on a channel, so it takes several channels to fill a long link. Each
channel has a thread, which encodes and sends one batch while the next is gathered. The agent puts
the batches in order again.

Where ssh(1) gets in without a question, a channel is an ssh(1) of its own, which is faster
(docs/performance.md). Otherwise it is a session of the connection that the coordinator has.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from checkpoint.criu.page_server import PIECE_BYTES
from checkpoint.host.ready import ready
from checkpoint.host.run import find_program, start
from checkpoint.host.worker import Worker
from migrate.agent.plug_command import PAGES, plug_command
from migrate.memory import batches, encoding
from migrate.memory.encoding import EncodingChoice
from migrate.wire import protocol
from migrate.wire.failures import AgentGone
from migrate.wire.values import PageExtent
from transport import openssh
from transport.connection import Connection
from transport.errors import StreamError
from transport.framing import ByteStream, FrameStream
from transport.openssh import SshProcess
from transport.throttle import RateLimit

T = TypeVar("T")
#: The receive window of sshd for each channel.
WINDOW_BYTES = 2 << 20
#: The fastest link that `channels_for` counts on. sshd allows ten sessions on a connection
#: (MaxSessions).
FASTEST_BYTES_PER_S = 400e6
MAX_CHANNELS = 6
PLUG_TIMEOUT_S = 10.0
ENDED = "a page channel has ended"
#: How often a producer that waits looks for a channel that has ended.
LOOK_S = 0.5
#: So many times in a row the channels may be lost without that a batch has come by them.
MOST_FRUITLESS = 5


class Job(NamedTuple):
    """A gathered batch, whose bytes are the first `used` of `buffer`."""

    number: int
    extents: tuple[PageExtent, ...]
    buffer: memoryview
    used: int
    digest: str
    into_images: bool
    forget: tuple[int, ...]


class Sent(NamedTuple):
    """A batch that the target may not have: what it was of, and what it told to forget."""

    number: int
    extents: tuple[PageExtent, ...]
    forget: tuple[int, ...]


@runtime_checkable
class Ending(Protocol):
    """A stream that tells whether its other end is gone."""

    def ended(self) -> bool:
        """Return whether nothing can be sent any more."""


class Renewal(Protocol):
    """The way to new page channels, for those that are lost."""

    @property
    def renewed(self) -> int:
        """How often the connection to the target was lost and made anew."""

    def renew(self) -> tuple[Sequence[ByteStream], protocol.BatchesThere]:
        """Return as many new streams, and which batches have come.

        Raises AgentGone, AgentFailed, ProtocolError or StreamError.
        """


class PageChannels:
    """The channels, their threads and their buffers, for one producer at a time.

    The producer takes a `buffer`, fills it and passes it to `submit`; `drain` waits until every
    batch was handed to SSH.

    With a `renewal`, lost channels are no failure until `settle`: others take their place. The
    batches that were lost with them are sent empty, and `take_lost` returns what was in them, to be
    read again: nothing but its place is kept of a page that was sent.

    A signal may interrupt the producer anywhere (migrate/signals.py), and `close` must end the
    threads all the same. Producer and threads therefore share no condition, of which a notification
    could be lost, but queues of which each operation is whole.
    """

    def __init__(
        self,
        streams: Sequence[ByteStream],
        choice: EncodingChoice,
        limit: RateLimit,
        renewal: Renewal | None = None,
    ) -> None:
        self.count = 0
        self._renewal = renewal
        self._renewed = renewal.renewed if renewal is not None else 0
        self._fruitless = 0
        self._unconfirmed: deque[Sent] = deque()
        self._lost: list[PageExtent] = []
        self._sent_before = 0
        self._limit = limit
        self._choice = choice
        self._failure: Exception | None = None
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        #: The numbers of jobs that a thread is done with; `_drained` counts those taken from this
        #: queue.
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._queued = self._drained = 0
        self._streams = streams
        self._channels = [FrameStream(stream) for stream in streams]
        self._workers = []
        for index in range(len(self._channels)):
            for _ in range(2):
                self._free.put(memoryview(bytearray(PIECE_BYTES)))
            self._workers.append(Worker("pages", partial(self._work, index)))

    @property
    def channels(self) -> int:
        return len(self._channels)

    @property
    def sent_bytes(self) -> int:
        """Bytes of frames sent so far, before encryption."""
        return self._sent_before + sum(channel.sent_bytes for channel in self._channels)

    def buffer(self) -> memoryview:
        """Wait for an unused buffer of PIECE_BYTES and return it."""
        return self._taken(self._free)

    def submit(
        self,
        extents: Sequence[PageExtent],
        buffer: memoryview,
        used: int,
        *,
        into_images: bool = False,
        forget: Sequence[int] = (),
    ) -> None:
        """Queue a batch to be sent; protocol.Pages has the meaning of the arguments.

        Raises AgentGone if an earlier batch could not be sent.
        """
        self._check()
        # The producer makes the digest, because the threads that send are the slowest part.
        digest = batches.digest_of(buffer[:used])
        sent = Sent(self.count, tuple(extents), tuple(forget))
        if self._renewal is not None:
            self._unconfirmed.append(sent)
        self._queue(Job(self.count, sent.extents, buffer, used, digest, into_images, sent.forget))
        self.count += 1

    def drain(self) -> None:
        """Wait until every batch was handed to SSH. Raises AgentGone if one could not be."""
        self._wait_idle()
        while self._check():
            self._wait_idle()

    def confirmed(self, batches_in_place: int) -> None:
        """Forget of batches what only a loss would need: the target has the first so many."""
        while self._unconfirmed and self._unconfirmed[0].number < batches_in_place:
            self._unconfirmed.popleft()
            self._fruitless = 0

    def take_lost(self) -> list[PageExtent]:
        """Return, once, what was in the batches that were lost."""
        lost, self._lost = self._lost, []
        return lost

    def settle(self) -> None:
        """Have a channel that is lost from now on be a failure."""
        self._renewal = None
        self._unconfirmed.clear()

    def _queue(self, job: Job) -> None:
        self._queued += 1
        self._jobs.put(job)

    def _wait_idle(self) -> None:
        """Wait until no thread has anything to do."""
        while self._drained < self._queued:
            self._taken(self._done)
            self._drained += 1

    def _taken(self, given: queue.SimpleQueue[T]) -> T:
        """Wait for what a thread gives back, and return it.

        The target takes batches in order. When one was lost with its channel, the others may have
        to wait for it for ever: a channel that has ended ends them.
        """
        while True:
            try:
                return given.get(timeout=LOOK_S)
            except queue.Empty:
                if self._one_has_ended():
                    self._fail(StreamError(ENDED))

    def _one_has_ended(self) -> bool:
        """Return whether a channel is gone, which only a write to it would notice."""
        return any(isinstance(each, Ending) and each.ended() for each in self._streams)

    def _fail(self, error: Exception) -> None:
        """Send nothing more, and end the waits of all threads."""
        self._failure = self._failure or error
        for channel in self._channels:
            channel.close()

    def close(self) -> None:
        """End the channels and their threads, without sending what still waits."""
        self._limit.lift()
        for _ in self._workers:
            self._jobs.put(None)
        for channel in self._channels:
            channel.close()
        for worker in self._workers:
            worker.wait()

    def _check(self) -> bool:
        """Take new channels if those are lost; return whether they were.

        Raises AgentGone if there are none, and what `renew` of the renewal raises.
        """
        found = False
        while True:
            renewal, failure = self._renewal, self._failure
            lost = renewal is not None and self._renewed != renewal.renewed
            if renewal is not None and (lost or self._one_has_ended()):
                failure = failure or StreamError(ENDED)
            if failure is None:
                return found
            fruitless = self._fruitless >= MOST_FRUITLESS
            if renewal is None or fruitless or not isinstance(failure, StreamError):
                raise AgentGone(str(failure), "", None) from failure
            self._fail(failure)
            self._renew(renewal)
            found = True

    def _renew(self, renewal: Renewal) -> None:
        self._wait_idle()
        self._sent_before, self._channels = self.sent_bytes, []
        streams, there = renewal.renew()
        self._renewed = renewal.renewed
        sent_before = len(self._unconfirmed)
        self.confirmed(there.in_place)
        lost = [sent for sent in self._unconfirmed if sent.number not in there.beyond]
        if sent_before:
            self._fruitless = self._fruitless + 1 if len(lost) == sent_before else 0
        self._streams = streams
        self._channels = [FrameStream(stream) for stream in streams]
        self._failure = None
        for sent in lost:
            self._lost += sent.extents
            nothing = batches.digest_of(b"")
            self._queue(Job(sent.number, (), memoryview(b""), 0, nothing, False, sent.forget))
        self._unconfirmed = deque(sent._replace(extents=()) for sent in lost)

    def _work(self, index: int) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if self._failure is None:
                    self._send(self._channels[index], job)
            except Exception as error:  # noqa: BLE001 (the producer must not wait for this thread)
                self._fail(error)
            finally:
                if job.buffer:
                    self._free.put(job.buffer)
                self._done.put(job.number)

    def _send(self, channel: FrameStream, job: Job) -> None:
        data = job.buffer[: job.used]
        encoded = self._choice.next() if job.used else encoding.RAW
        started = time.perf_counter()
        payload = encoding.encode(data, encoded)
        message = protocol.Pages(
            number=job.number,
            extents=job.extents,
            encoding=encoded,
            digest=job.digest,
            into_images=job.into_images,
            forget=job.forget,
        )
        header = protocol.encode(message)
        self._limit.take(len(header) + len(payload))
        channel.send(header, [payload])
        if job.used:
            self._choice.took(encoded, job.used, time.perf_counter() - started)


def channels_for(round_trip_s: float) -> int:
    """Return how many channels keep the fastest link busy, for a round trip in seconds.

    There are at least two: while one waits for its window the other sends.
    """
    return min(MAX_CHANNELS, 2 + int(round_trip_s * FASTEST_BYTES_PER_S / WINDOW_BYTES))


def open_streams(connection: Connection, socket_path: Path, count: int) -> list[ByteStream]:
    """Open `count` SSH channels whose other ends the agent reads. Raises StreamError.

    `socket_path` is where the agent listens. ssh(1) is tried first; the existing `connection` opens
    the channels that are still missing.
    """
    command = plug_command(socket_path, PAGES)
    with contextlib.ExitStack() as undo:
        streams: list[ByteStream] = []
        if find_program("ssh") is not None:
            streams += _open_by_ssh(connection, command, count, undo)
        while len(streams) < count:
            streams.append(connection.run(command))
        undo.pop_all()
    return streams


def _open_by_ssh(
    connection: Connection, command: str, count: int, undo: contextlib.ExitStack
) -> Iterator[SshProcess]:
    """Start `count` ssh(1) processes side by side, and yield those that reach the agent in time."""
    argv = openssh.command_line(connection.destination, command)
    started = []
    for _ in range(count):
        process = SshProcess(start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        undo.callback(process.close)
        started.append(process)
    deadline = time.monotonic() + PLUG_TIMEOUT_S
    for process in started:
        # The migration's id is in the path of the agent's socket, and no other host has that path.
        # A channel that the agent answers leads to the target.
        said = ready(process.output, timeout_s=max(0.0, deadline - time.monotonic()))
        if said and process.read_into(memoryview(bytearray(1))):
            yield process
        else:
            process.close()
