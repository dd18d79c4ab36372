"""The target's end of the page channels: batches checked side by side, put in place one after the other."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from checkpoint.errors import ImageError
from checkpoint.host.listener import Listener
from checkpoint.images import batch
from checkpoint.images.batch import Extent
from checkpoint.images.directory import RUN
from migrate import protocol
from migrate.plugs import PLUGGED
from migrate.protocol import ProtocolError
from transport.descriptors import Descriptors, widen_pipe
from transport.errors import EndOfStream, StreamError
from transport.framing import FrameStream

DRAIN_BYTES = 1 << 20

#: Takes one batch and its extents, unpacked.
Put = Callable[[protocol.Pages, Iterator[Extent]], None]


def socket_path(migration_id: str) -> Path:
    """Where the agent of a migration takes page channels."""
    return RUN / migration_id / "pages.sock"


class PageReceiver:
    """Listens at `path` for so many channels (agent/plug.py). Use as a context.

    A batch that does not come in `patience_s` is lost. A failure is kept for `wait`; until then what
    still comes is read and dropped, so that nobody blocks.
    """

    def __init__(self, path: Path, channels: int, put: Put, patience_s: float) -> None:
        self._path, self._channels, self._put = path, channels, put
        self._patience_s = patience_s
        self._plugs: list[socket.socket] = []
        self._turn = threading.Condition()
        self._next = self._ended = 0
        self._waiting: set[int] = set()
        self._failure: Exception | None = None
        self._closed = False

    def __enter__(self) -> PageReceiver:
        self._listener = Listener(self._path, self._serve, "pages")
        return self

    def __exit__(self, *_: object) -> None:
        with self._turn:  # nothing is put any more: what it would be put into goes next
            self._failure = self._failure or ImageError("the channels were closed")
            self._closed = True
            self._turn.notify_all()
        self._listener.close()
        for plug in self._plugs:
            plug.close()

    def check(self) -> None:
        """Raise what went wrong with a batch so far."""
        with self._turn:
            if self._failure is not None:
                raise self._failure

    def wait(self, batches: int) -> None:
        """Until so many batches are in place. Raises what went wrong with one, or ImageError when one is lost."""
        with self._turn:
            while self._next < batches and self._failure is None:
                before = self._next
                came = self._turn.wait_for(
                    lambda: self._next > before or self._hopeless(),  # noqa: B023
                    self._patience_s,
                )
                if self._next == before and self._failure is None:
                    why = (
                        "their channels ended"
                        if came
                        else f"nothing came for {self._patience_s:g} s"
                    )
                    raise ImageError(
                        f"batch {self._next} of {batches} with pages never came: {why}"
                    )
            if self._failure is not None:
                raise self._failure
            if self._next > batches:
                raise ImageError(f"{self._next} batches of pages came instead of {batches}")

    def _serve(self, plug: socket.socket) -> None:
        with self._turn:
            if self._closed:  # it came at the last moment
                plug.close()
                return
            self._plugs.append(plug)
        fds: list[int] = []
        with contextlib.suppress(OSError):  # it was closed at once: the channels are wanted no more
            _, fds, _, _ = socket.recv_fds(plug, 16, 2)
        try:
            if len(fds) == 2:
                with (
                    open(fds[1], "wb", buffering=0) as answers,
                    contextlib.suppress(OSError),
                ):  # it ended at once
                    answers.write(PLUGGED)
                self._read(fds[0])
        finally:
            with self._turn:
                self._ended += 1
                self._turn.notify_all()

    def _hopeless(self) -> bool:
        """Whether nothing will come any more."""
        return self._failure is not None or self._ended == len(self._plugs) >= self._channels

    def _read(self, fd: int) -> None:
        widen_pipe(fd)
        channel = FrameStream(Descriptors(fd, fd))
        try:
            while True:
                self._take(protocol.decode(*channel.receive(), protocol.Pages))
        except EndOfStream:
            pass
        except (StreamError, ProtocolError, ImageError, OSError) as error:
            with self._turn:
                self._failure = self._failure or error
                self._turn.notify_all()
            with contextlib.suppress(OSError):
                while os.read(fd, DRAIN_BYTES):  # short result: it is thrown away
                    pass
        finally:
            channel.close()

    def _take(self, message: protocol.Pages) -> None:
        extents = batch.unpack(message.extents, message.payload, message.encoding, message.digest)
        with self._turn:
            self._wait_turn(message.number)
            if self._failure is not None:
                raise ImageError("a batch of pages came after one that failed")
            if message.number != self._next:
                raise ImageError(f"batch {message.number} with pages came twice")
            self._put(message, extents)
            self._next += 1
            self._turn.notify_all()

    def _wait_turn(self, number: int) -> None:
        """A channel brings its batches in order: when all of them wait with later ones, the next one is lost."""
        self._waiting.add(number)
        try:
            lost = len(self._waiting) == self._channels and self._next not in self._waiting
            if number > self._next and lost:
                raise ImageError(f"batch {self._next} with pages never came")
            if not self._turn.wait_for(
                lambda: self._next >= number or self._failure is not None, self._patience_s
            ):
                raise ImageError(
                    f"batch {self._next} with pages never came in {self._patience_s:g} s"
                )
        finally:
            self._waiting.discard(number)
