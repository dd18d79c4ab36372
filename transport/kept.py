"""What a stream keeps of its bytes, to outlast the connection under it. No I/O here.

Both ends of such a stream count the bytes of each direction from its beginning. When the connection
is lost, each end tells the other how many have come, and the other sends the rest over the next
connection. So each end keeps what it has sent until the peer is known to have it.
"""

from __future__ import annotations

import struct
import threading
from collections import deque

from transport.errors import IncompleteFrame

#: The form in which an end tells how many bytes have come.
COUNT = struct.Struct("!Q")


class Kept:
    """The bytes that were sent, as long as the peer may not have them.

    `sent` counts all bytes so far. Bytes are kept while `keeping`.
    """

    def __init__(self) -> None:
        self.sent = self._start = 0
        self._pieces: deque[bytes] = deque()
        self.keeping = False

    def add(self, data: bytes | memoryview) -> None:
        """Count the bytes that are sent next, and keep them."""
        if self.keeping:
            self._pieces.append(bytes(data))
        else:
            self._start += len(data)
        self.sent += len(data)

    def confirm(self, position: int) -> None:
        """Drop what the peer has: the first `position` bytes. A piece stays until all of it is."""
        while self._pieces and self._start + len(self._pieces[0]) <= position:
            self._start += len(self._pieces.popleft())

    def drop(self) -> None:
        """Keep nothing any more. Another thread may be in `since`."""
        self.keeping = False
        self._pieces = deque()
        self._start = self.sent

    def since(self, position: int) -> list[memoryview]:
        """Return what the peer lacks, of which `position` bytes have come.

        Raises IncompleteFrame if the peer cannot have so many, or if they are not kept any more.
        """
        if not self._start <= position <= self.sent:
            raise IncompleteFrame(
                f"the peer has {position} bytes of {self.sent}, of which {self._start} are gone"
            )
        left, pieces = position - self._start, []
        for piece in self._pieces:
            if left < len(piece):
                pieces.append(memoryview(piece)[left:])
            left = max(0, left - len(piece))
        return pieces


class Keeping:
    """The part of both ends of such a stream that keeps what was sent. Writers hold `_writing`."""

    def __init__(self) -> None:
        self._kept = Kept()
        self._writing = threading.Lock()

    @property
    def position(self) -> int:
        """How many bytes were sent so far."""
        return self._kept.sent

    def confirmed(self, position: int) -> None:
        """Drop what the peer is known to have: the first `position` bytes."""
        with self._writing:
            self._kept.confirm(position)
