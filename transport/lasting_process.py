"""A process on another host whose streams outlast the connection under them (transport/kept.py)."""

from __future__ import annotations

import threading
from collections.abc import Callable

from transport.connection import Process
from transport.errors import EndOfStream, IncompleteFrame, StreamError, TooSlow
from transport.kept import Keeping

#: A function that takes the place of a lost connection. It is called with the number of bytes that
#: have come, and with what has failed. It returns the process whose streams go on, and how many
#: bytes have come there. It raises StreamError if there is no such process.
Reopen = Callable[[int, StreamError], tuple[Process, int]]


class LastingProcess(Keeping):
    """A Process whose streams can go on over another one; for several threads (connection.py).

    `renewed` counts how often that came to pass.
    """

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process
        self._first = process
        self._received = self.renewed = 0
        self._patience_s: float | None = None
        self._lost: StreamError | None = None
        self._reopen: Reopen | None = None
        self._reading, self._renewing = threading.Lock(), threading.Lock()

    def last(self, reopen: Reopen) -> None:
        """Outlast the connection from now on; a StreamError of `reopen` ends the stream."""
        with self._writing:
            self._kept.keeping = True
            self._reopen = reopen

    def settle(self) -> None:
        """Outlast no connection any more. A stream whose connection is lost now is lost."""
        self._reopen = None
        self._kept.drop()

    @property
    def is_lost(self) -> bool:
        """Whether the connection is lost, and no other has taken its place yet."""
        return self._lost is not None

    def read_into(self, view: memoryview) -> int:
        while True:
            with self._reading:
                renewed, lost = self.renewed, self._lost
                try:
                    if lost is None and (size := self._process.read_into(view)):
                        self._received += size
                        return size
                except TooSlow:
                    raise
                except StreamError as error:
                    lost = error
            if self._reopen is None:
                if lost is None:
                    return 0
                raise lost
            self._renew(renewed, lost or EndOfStream("the other end closed the stream"))

    def write(self, data: bytes | memoryview) -> None:
        with self._writing:
            self._kept.add(data)
            renewed, lost = self.renewed, self._lost
            try:
                if lost is None:
                    self._process.write(data)
                    return
            except TooSlow:
                raise
            except StreamError as error:
                lost = error
        if self._reopen is None:
            raise lost
        self._renew(renewed, lost)  # which sends all that is kept

    def _renew(self, renewed: int, failed: StreamError) -> None:
        """Go on over another process. `failed` is why; `renewed` was the count at that time."""
        with self._renewing:
            if self.renewed != renewed:
                return  # another thread came first
            while (reopen := self._reopen) is not None:
                self._lost = self._lost or failed
                self._process.close()  # which ends the other threads' waits
                with self._reading:
                    received = self._received
                try:
                    again = self._go_on(*reopen(received, failed))
                except StreamError as error:
                    self._lost = error
                    self.settle()
                    raise
                if again is None:
                    return
                failed = again
            raise failed

    def _go_on(self, process: Process, position: int) -> StreamError | None:
        """Have a process take the lost one's place, and send it what it lacks.

        Returns how that failed if it is lost again. Raises IncompleteFrame if the stream cannot go
        on there, or was given up meanwhile.
        """
        with self._writing:
            try:
                pieces = self._lacking(position)
            except IncompleteFrame:
                process.close()
                raise
            self._process = process
            process.patience(self._patience_s)
            try:
                for piece in pieces:
                    process.write(piece)
            except StreamError as error:
                return error
            self._kept.confirm(position)
            self._lost = None
            self.renewed += 1
        return None

    def _lacking(self, position: int) -> list[memoryview]:
        if self._reopen is None:
            raise IncompleteFrame("nobody needs the stream any more")
        return self._kept.since(position)

    def read(self, size: int) -> bytes:
        data = bytearray(size)
        return bytes(data[: self.read_into(memoryview(data))])

    def patience(self, seconds: float | None) -> None:
        self._patience_s = seconds
        self._process.patience(seconds)

    def read_errors(self, size: int) -> bytes:
        """Return bytes of the first command's stderr; what comes in its place has none."""
        return self._first.read_errors(size)

    def end_input(self) -> None:
        self._process.end_input()

    def ended(self) -> bool:
        return self._process.ended()

    def wait(self) -> int:
        return self._process.wait()

    def close(self) -> None:
        self.settle()
        self._process.close()
