"""Copy pages from the store into address spaces: at once where a task waits for one, all others while none does."""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from checkpoint.memory import uffd_fill
from checkpoint.memory.address_spaces import AddressSpaces
from checkpoint.memory.missing import Piece
from checkpoint.memory.ranges import Range
from checkpoint.memory.store import PageStore
from checkpoint.memory.uffd import PAGE_SIZE
from checkpoint.memory.uffd_fill import FAULT, FORK, Buffer, Ended, Event, NotNow

#: Copied at one go: as much as takes about so long, for which everybody waits who comes meanwhile. New memory may be
#: anything between 1 us a page and, in a virtual machine whose host takes back what is free, 10.
CHUNK_NS = 200_000
LEAST_CHUNK_BYTES, MOST_CHUNK_BYTES = 32 << 10, 512 << 10
#: Copied around the address of who waits: what is near is wanted next.
AROUND_BYTES = 64 << 10
#: While somebody waits who could not be served: no event says when that is possible.
AGAIN_MS = 1


class Witness(Protocol):
    """Who is told of all that happens to address spaces before it is followed (keeper.py)."""

    def changed(self, number: int, event: Event, uffd: int) -> None: ...

    def filled(self, number: int) -> None: ...


@dataclass
class Served:
    """What was done. `waits_ns`: for each page that a task waited for, how long that was at most."""

    waits_ns: list[int] = field(default_factory=list)
    copied_bytes: int = 0
    finished_ns: int = 0

    def waits_us(self) -> list[int]:
        """How many there were, and of those the median, the 99th of a hundred, and the longest."""
        ordered = sorted(wait // 1000 for wait in self.waits_ns)
        if not ordered:
            return [0, 0, 0, 0]
        return [
            len(ordered),
            ordered[len(ordered) // 2],
            ordered[len(ordered) * 99 // 100],
            ordered[-1],
        ]


class Filler:
    """Works in turns, each short."""

    def __init__(self, store: PageStore, spaces: AddressSpaces) -> None:
        self._store, self._spaces = store, spaces
        self.witness: Witness | None = None
        self._buffer = Buffer(MOST_CHUNK_BYTES)
        self._chunk_bytes = LEAST_CHUNK_BYTES
        #: (number, addresses) to be brought before all others.
        self._first: deque[tuple[int, Range]] = deque()
        self._poll = select.poll()
        self._numbers: dict[int, int] = {}
        #: (number, address) of those who wait.
        self._faults: list[tuple[int, int]] = []
        self._looked_ns = self._waiting_since_ns = time.monotonic_ns()
        self.served = Served()

    def watch(self, number: int) -> None:
        """Serve an address space."""
        uffd = self._spaces[number].uffd
        self._numbers[uffd] = number
        self._poll.register(uffd, select.POLLIN)

    def bring_first(self, hot: Mapping[int, Sequence[Range]]) -> None:
        """What each image's address spaces will want at once."""
        for number in self._spaces.numbers():
            self._first.extend(
                (number, wanted) for wanted in hot.get(self._spaces[number].image, ())
            )

    def watch_other(self, descriptor: int) -> None:
        """`turn` is to tell when this one can be read."""
        self._poll.register(descriptor, select.POLLIN)

    def forget_other(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)

    def turn(self, *, fill: bool) -> list[int]:
        """Serve who waits, and with `fill` copy a chunk. Returns which other descriptors can be read.

        A chunk each time: were it only when nobody waits, a busy container would wait for each of its pages.
        """
        chunk = self._next_chunk(fill=fill)
        ready = self._ready(busy=chunk is not None)
        # Before any of them ends and its descriptor is forgotten.
        watched = [self._numbers[descriptor] for descriptor in ready if descriptor in self._numbers]
        others = [descriptor for descriptor in ready if descriptor not in self._numbers]
        for number in watched:
            self._read(number)
        faults, self._faults = self._faults, []
        for fault in faults:
            if self._answer(*fault):
                self.served.waits_ns.append(time.monotonic_ns() - self._waiting_since_ns)
            else:
                self._faults.append(fault)
        if chunk is not None:
            self._copy_chunk(*chunk)
        return others

    def _ready(self, *, busy: bool) -> list[int]:
        """Descriptors that can be read; waits for one unless there is something else to do."""
        timeout_ms = 0 if busy else AGAIN_MS if self._faults else None
        ready = [descriptor for descriptor, _ in self._poll.poll(timeout_ms)]
        now_ns = time.monotonic_ns()
        # Who is found waiting came after the last look, or ended this one.
        self._waiting_since_ns, self._looked_ns = self._looked_ns if busy else now_ns, now_ns
        return ready

    def _next_chunk(self, *, fill: bool) -> tuple[int, Range] | None:
        """Where to go on. Spaces where nothing is missing are let go: their descriptors are needed for forks."""
        if self._first:
            return self._first.popleft()
        for number in self._spaces.numbers() if fill else ():
            if self._spaces[number].missing:
                piece = self._spaces[number].missing.first(self._chunk_bytes)
                return number, (piece.start, piece.end)
            if self.witness is not None:
                self.witness.filled(number)
            self._close(number)
        return None

    def _copy_chunk(self, number: int, wanted: Range) -> None:
        """What is still missing of it, and learn how much is right for the next."""
        started_ns = time.monotonic_ns()
        for piece in self._spaces[number].missing.within(*wanted) if number in self._spaces else ():
            if not self._copy(number, piece):
                break
        if wanted[1] - wanted[0] == self._chunk_bytes:
            slow = time.monotonic_ns() - started_ns > CHUNK_NS
            self._chunk_bytes = self._chunk_bytes // 2 if slow else self._chunk_bytes * 2
            self._chunk_bytes = min(max(self._chunk_bytes, LEAST_CHUNK_BYTES), MOST_CHUNK_BYTES)

    def _read(self, number: int) -> None:
        event = uffd_fill.next_event(self._spaces[number].uffd)
        if event is None:  # who waited does not wait any more
            return
        if event.kind == FAULT:
            self._faults.append((number, event.arguments[1]))
            return
        child = event.arguments[0] if event.kind == FORK else -1
        if self.witness is not None:
            self.witness.changed(number, event, child)
        changed = self._spaces.change(number, event, child)
        if event.kind == FORK:
            self.watch(changed)

    def _answer(self, number: int, address: int) -> bool:
        """Bring the page that a task waits for. False when that must be tried again."""
        if number not in self._spaces:
            return True
        piece = self._spaces[number].missing.around(address, AROUND_BYTES)
        if piece is not None:
            return self._copy(number, piece)
        try:
            uffd_fill.zero(
                self._spaces[number].uffd, address - address % PAGE_SIZE
            )  # it never had content
        except NotNow:
            return False
        except Ended:
            self._close(number)
        return True

    def _copy(self, number: int, piece: Piece) -> bool:
        """False when it must be tried again."""
        space, at, most = self._spaces[number], piece.start, MOST_CHUNK_BYTES
        while at < piece.end:
            size = min(most, piece.end - at)
            self._store.read(space.image, at + piece.shift, self._buffer.view[:size])
            try:
                settled = self._buffer.copy(space.uffd, at, size)
            except NotNow:
                return False
            except Ended:
                self._close(number)
                return True
            if not settled:  # some mapping ends in it
                most = PAGE_SIZE
            space.missing.drop(at, at + settled)
            self.served.copied_bytes += settled
            at += settled
        return True

    def _close(self, number: int) -> None:
        """It ended, or all of it is there."""
        uffd = self._spaces[number].uffd
        self._poll.unregister(uffd)
        del self._numbers[uffd]
        self._spaces.close(number)
