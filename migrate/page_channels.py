"""Carries batches of pages to the agent, over SSH channels of their own.

sshd lets 2 MiB be under way on a channel, so on a long link several are needed to fill it. Each has a
thread, which encodes and sends while the next batch is gathered. The agent puts batches in order again.

Where ssh(1) gets in by itself a channel is one of those, which is faster (docs/performance.md); otherwise it is a
session of the connection that is there.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from checkpoint.criu.page_wire import PIECE_BYTES
from checkpoint.host.ready import ready
from checkpoint.host.run import find_program, start
from checkpoint.images import batch, encoding
from checkpoint.images.batch import PageExtent
from migrate import protocol
from migrate.encoding_choice import EncodingChoice
from migrate.errors import AgentGone
from migrate.plugs import PAGES, plug_command
from transport import openssh
from transport.connection import Connection
from transport.framing import ByteStream, FrameStream
from transport.openssh import SshProcess
from transport.throttle import RateLimit

#: sshd's receive window per channel.
WINDOW_BYTES = 2 << 20
#: What a link may carry at best, for the number of channels; sshd allows ten sessions a connection (MaxSessions).
FASTEST_BYTES_PER_S = 400e6
MAX_CHANNELS = 6
PLUG_TIMEOUT_S = 10.0


class Job(NamedTuple):
    """A gathered batch; its bytes are the first `used` of `buffer`."""

    number: int
    extents: tuple[PageExtent, ...]
    buffer: memoryview
    used: int
    digest: str
    final: bool
    forget: tuple[int, ...]


class PageChannels:
    """One producer at a time: take a `buffer`, fill it, `submit` it; `drain` when all must have gone out.

    A signal may interrupt the producer anywhere (migrate/signals.py), and `close` must end the threads all the same.
    Hence no condition is shared with them, of which a notification could be lost, but queues that are whole by nature.
    """

    def __init__(
        self, streams: Sequence[ByteStream], choice: EncodingChoice, limit: RateLimit
    ) -> None:
        self.count = 0
        self._limit = limit
        self._choice = choice
        self._failure: Exception | None = None
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        #: The number of each job that a thread is done with, and how many were taken from there.
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._drained = 0
        self._channels = [FrameStream(stream) for stream in streams]
        self._threads = []
        for channel in self._channels:
            for _ in range(2):
                self._free.put(memoryview(bytearray(PIECE_BYTES)))
            thread = threading.Thread(target=self._work, args=(channel,), name="pages", daemon=True)
            thread.start()
            self._threads.append(thread)

    @property
    def channels(self) -> int:
        return len(self._channels)

    @property
    def sent_bytes(self) -> int:
        """Bytes of frames, before encryption."""
        return sum(channel.sent_bytes for channel in self._channels)

    def buffer(self) -> memoryview:
        """An unused buffer of PIECE_BYTES; waits for one."""
        return self._free.get()

    def submit(
        self,
        extents: Sequence[PageExtent],
        buffer: memoryview,
        used: int,
        *,
        final: bool = False,
        forget: Sequence[int] = (),
    ) -> None:
        """Send a batch; see protocol.Pages. Raises AgentGone when an earlier one could not be."""
        self._check()
        # Here, not in the thread that sends: that one is the slowest.
        digest = batch.digest_of(buffer[:used])
        self._jobs.put(Job(self.count, tuple(extents), buffer, used, digest, final, tuple(forget)))
        self.count += 1

    def drain(self) -> None:
        """Wait until everything was handed to SSH. Raises AgentGone."""
        while self._drained < self.count:
            self._done.get()
            self._drained += 1
        self._check()

    def close(self) -> None:
        """End the channels, whatever is still to be sent."""
        self._limit.lift()
        for _ in self._threads:
            self._jobs.put(None)
        for channel in self._channels:
            channel.close()
        for thread in self._threads:
            thread.join()

    def _check(self) -> None:
        if self._failure is not None:
            raise AgentGone(str(self._failure), "", None) from self._failure

    def _work(self, channel: FrameStream) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if self._failure is None:
                    self._send(channel, job)
            except Exception as error:  # noqa: BLE001  (whatever it is, the producer must not wait for this thread)
                self._failure = error
            finally:
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
            final=job.final,
            forget=job.forget,
        )
        header = protocol.encode(message)
        self._limit.take(len(header) + len(payload))
        channel.send(header, [payload])
        if job.used:
            self._choice.took(encoded, job.used, time.perf_counter() - started)


def channels_for(round_trip_s: float) -> int:
    """How many channels keep the fastest link busy. Two at least: while one waits for its window the other sends."""
    return min(MAX_CHANNELS, 2 + int(round_trip_s * FASTEST_BYTES_PER_S / WINDOW_BYTES))


def open_streams(connection: Connection, socket_path: Path, count: int) -> list[ByteStream]:
    """SSH channels whose other ends the agent reads. Raises StreamError."""
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
    """As many as ssh(1) opens in time, started side by side."""
    argv = openssh.command_line(connection.destination, command)
    started = []
    for _ in range(count):
        process = SshProcess(start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        undo.callback(process.close)
        started.append(process)
    deadline = time.monotonic() + PLUG_TIMEOUT_S
    for process in started:
        # The agent's socket has a name that no other host has: who is plugged in is where we want to be.
        said = ready(process.output, timeout_s=max(0.0, deadline - time.monotonic()))
        if said and process.read_into(memoryview(bytearray(1))):
            yield process
        else:
            process.close()
