"""Descriptors as a stream that outlasts the connection under it (transport/kept.py)."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass

from transport.errors import IncompleteFrame
from transport.kept import COUNT, Keeping


@dataclass
class _Pair:
    """Two descriptors that are the stream for a while.

    After `may_end`, the descriptor `over` can be read when they are the stream no more.
    """

    reader: int
    writer: int
    over: int = -1
    is_over: bool = False
    _signal: int = -1
    _closed: bool = False
    #: All that was written went out whole.
    whole: bool = True

    def may_end(self) -> _Pair:
        """Get ready for `end`; return the pair."""
        self.over, self._signal = os.pipe()
        os.set_blocking(self.writer, False)
        return self

    def end(self) -> None:
        """Tell those who wait for the descriptors that others take their place."""
        self.is_over = True
        signal, self._signal = self._signal, -1
        if signal >= 0:
            os.close(signal)

    def wait_readable(self, timeout_s: float | None) -> bool:
        """Wait until something has come, or the descriptors are over; False after `timeout_s`."""
        return self._wait(self.reader, select.POLLIN, timeout_s)

    def wait_writable(self, timeout_s: float | None) -> bool:
        """Wait until something can be written. False after `timeout_s`, or if they are over."""
        return self._wait(self.writer, select.POLLOUT, timeout_s) and not self.is_over

    def _wait(self, fd: int, events: int, timeout_s: float | None) -> bool:
        poll = select.poll()
        poll.register(fd, events)
        if self.over >= 0:
            poll.register(self.over, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

    def close_stream(self) -> None:
        """Close the descriptors, but not `over`, for which somebody may still wait."""
        if not self._closed:
            self._closed = True
            for fd in {self.reader, self.writer}:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def close(self) -> None:
        """Close all."""
        self.close_stream()
        for fd in {self.over, self._signal} - {-1}:
            os.close(fd)
        self.over = self._signal = -1


class LastingDescriptors(Keeping):
    """A ByteStream over two descriptors, which it owns, and for which others can be exchanged.

    A read that waits longer than `silence_s` seconds raises IncompleteFrame; None is no bound.
    Several threads may write, and one reads.
    """

    def __init__(self, reader: int, writer: int, silence_s: float | None = None) -> None:
        super().__init__()
        self._pair = _Pair(reader, writer)
        self._before: list[_Pair] = []
        self._silence_s = silence_s
        self._received = 0
        self._await: Callable[[int], bool] | None = None
        self._state = threading.Lock()

    @property
    def reader(self) -> int:
        """The descriptor that can be read when something has come."""
        return self._pair.reader

    def last(self, wait: Callable[[int], bool]) -> None:
        """Outlast the connection from now on.

        The thread that reads calls `wait` when the connection is lost. It returns True when the
        descriptor that it is given can be read, and False if nobody waits any longer.
        """
        self._kept.keeping = True
        self._pair.may_end()
        self._await = wait

    def settle(self) -> None:
        """Outlast no connection any more."""
        self._await = None
        self._kept.drop()

    def exchange(self, reader: int, writer: int, position: int, greeting: bytes) -> None:
        """Go on over two other descriptors, which the stream owns from now on.

        `position` bytes have come at the peer. It gets the greeting first, then how many have come
        here, then what it lacks. Raises IncompleteFrame if the stream cannot go on so.
        """
        new = _Pair(reader, writer).may_end()
        with contextlib.ExitStack() as stack:
            with self._state:  # in which no reader can find the old pair over and still in place
                if self._await is not None:
                    self._pair.end()  # all waits for the old descriptors are over
                stack.enter_context(self._writing)
                try:
                    pieces = self._lacking(position)
                except IncompleteFrame:
                    new.close()
                    raise
                self._pair.close_stream()
                self._before.append(self._pair)
                self._pair, count = new, self._received
            self._write(new, greeting + COUNT.pack(count))
            for piece in pieces:
                self._write(new, piece)

    def _lacking(self, position: int) -> list[memoryview]:
        """Return what the peer lacks. Raises IncompleteFrame, and the stream is lost then."""
        if self._await is None:
            raise IncompleteFrame("the stream outlasts no connection")
        try:
            return self._kept.since(position)
        except IncompleteFrame:
            self.settle()
            raise

    def read_into(self, view: memoryview) -> int:
        while True:
            pair, failed = self._pair, None
            try:
                size = self._read(pair, view)
            except IncompleteFrame as error:
                size, failed = 0, error
            if size is None:  # others take the descriptors' place
                with self._state:
                    if self._pair is not pair or not pair.is_over:
                        continue
                size = 0
            if size:
                return size
            wait = self._await
            if wait is None or not wait(pair.over):
                if failed is not None:
                    raise failed
                return 0

    def _read(self, pair: _Pair, view: memoryview) -> int | None:
        """Return how many bytes came; None if the descriptors are those of the stream no more.

        Raises IncompleteFrame after a silence that is too long.
        """
        if not pair.wait_readable(self._silence_s):
            raise IncompleteFrame(f"nothing came from the peer for {self._silence_s:g} s")
        if pair.is_over:
            return None
        with self._state:
            if self._pair is not pair:
                return None
            try:
                size = os.readv(pair.reader, [view])  # short result: ByteStream allows it
            except BlockingIOError:  # a socket that is also the writer
                return None
            except OSError:
                if self._await is None:
                    raise
                return 0
            self._received += size
        return size

    def write(self, data: bytes | memoryview) -> None:
        with self._writing:
            self._kept.add(data)
            if self._await is None:
                if not self._pair.whole:
                    raise BrokenPipeError("an earlier write was not to its end")
                self._write_all(self._pair, data, None)
            else:
                self._write(self._pair, data)

    def _write(self, pair: _Pair, data: bytes | memoryview) -> None:
        """Write what is kept anyway: a failure shows to the reader, and the next pair brings it."""
        if pair.whole:
            try:
                self._write_all(pair, data, self._silence_s)
            except OSError:
                pair.whole = False

    def _write_all(self, pair: _Pair, data: bytes | memoryview, timeout_s: float | None) -> None:
        view = memoryview(data)
        while view:
            if not pair.wait_writable(timeout_s):
                raise TimeoutError("the peer has taken nothing in time")
            try:
                view = view[os.write(pair.writer, view) :]  # short result: the loop writes the rest
            except BlockingIOError:
                continue

    def hang_up(self) -> None:
        """End the stream for the peer.

        Both descriptors stay open, but lead to /dev/null: reads find the end of the stream, and
        bytes written are lost.
        """
        self.settle()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in {self._pair.reader, self._pair.writer}:
            os.dup2(null, fd, inheritable=False)
        os.close(null)

    def close(self) -> None:
        self.settle()
        for pair in self._before:
            pair.close()
        self._pair.close()
