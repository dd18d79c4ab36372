"""The filler, which copies pages from the page store into address spaces of restored tasks.

A page that a task waits for is copied first. All other pages are copied in small chunks in between.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from checkpoint.memory.pager import uffd_copy
from checkpoint.memory.pager.address_spaces import AddressSpaces
from checkpoint.memory.pager.missing import Piece
from checkpoint.memory.pager.uffd_copy import FAULT, FORK, Buffer, Ended, Event, NotNow
from checkpoint.memory.ranges import Range
from checkpoint.memory.store import PageStore
from checkpoint.memory.tracking.write_protection import PAGE_SIZE

#: The time that copying one chunk is to take, in nanoseconds. A task that faults meanwhile waits
#: for so long. The size of a chunk follows from it, within the bounds of the next line: new memory
#: costs 1 us a page, and up to 10 us in a virtual machine whose host takes free memory back.
CHUNK_NS = 200_000
LEAST_CHUNK_BYTES, MOST_CHUNK_BYTES = 32 << 10, 512 << 10
#: For a fault, pages of the surrounding aligned block of this size are copied: what is near is
#: likely to be used next.
AROUND_BYTES = 64 << 10
#: Milliseconds until a fault that could not be served is tried again: no event says when it can be.
AGAIN_MS = 1


class Witness(Protocol):
    """The receiver of every change of an address space, before the filler acts on it (keeper.py).

    `changed` takes a userfaultfd event of an address space; `uffd` is the child's descriptor if the
    event is a fork, -1 otherwise. `filled` takes an address space that has all its pages.
    """

    def changed(self, number: int, event: Event, uffd: int) -> None: ...

    def filled(self, number: int) -> None: ...


@dataclass
class Served:
    """Figures of one filler.

    `waits_ns` has for each fault that was served how long the task waited, at most. `copied_bytes`
    is what was copied, or found in place. `finished_ns` (CLOCK_MONOTONIC) is when all memory was in
    place; 0 before that.
    """

    waits_ns: list[int] = field(default_factory=list)
    copied_bytes: int = 0
    finished_ns: int = 0

    def waits_us(self) -> list[int]:
        """Return [number of waits, median, 99th percentile, longest], times in microseconds."""
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
    """The loop that serves the faults of all address spaces and copies the other pages in between.

    The owner calls `turn` again and again; a turn copies one chunk at most. An address space that
    has ended is closed and forgotten.
    """

    def __init__(self, store: PageStore, spaces: AddressSpaces) -> None:
        self._store, self._spaces = store, spaces
        self.witness: Witness | None = None
        self._buffer = Buffer(MOST_CHUNK_BYTES)
        self._chunk_bytes = LEAST_CHUNK_BYTES
        #: (address space, addresses) of what is copied before all else, of any size.
        self._first: deque[tuple[int, Range]] = deque()
        self._poll = select.poll()
        self._numbers: dict[int, int] = {}
        #: (address space, address) of faults that are not served yet.
        self._faults: list[tuple[int, int]] = []
        self._looked_ns = self._waiting_since_ns = time.monotonic_ns()
        self.served = Served()

    def watch(self, number: int) -> None:
        """Serve the faults and events of an address space from now on."""
        uffd = self._spaces[number].uffd
        self._numbers[uffd] = number
        self._poll.register(uffd, select.POLLIN)

    def bring_first(self, hot: Mapping[int, Sequence[Range]]) -> None:
        """Queue pages that tasks will need at once, to be copied before all others.

        `hot` maps the dst_id of an address space to the address ranges of those pages.
        """
        for number in self._spaces.numbers():
            self._first.extend(
                (number, wanted) for wanted in hot.get(self._spaces[number].dst_id, ())
            )

    def watch_other(self, descriptor: int) -> None:
        """Have `turn` report when this descriptor, which is no userfaultfd, can be read."""
        self._poll.register(descriptor, select.POLLIN)

    def forget_other(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)

    def turn(self, *, fill: bool) -> list[int]:
        """Serve all faults that wait, then copy one chunk; return the readable other descriptors.

        Chunks come from the queue of `bring_first`, and with `fill` from all that is missing. If
        there is neither a chunk nor a fault to retry, the turn blocks until a descriptor can be
        read. A chunk is copied even while faults wait: otherwise a busy container would fault on
        every page. Raises ImageError for a page that is not in the store, and OSError.
        """
        chunk = self._next_chunk(fill=fill)
        ready = self._ready(busy=chunk is not None)
        # Looked up first: a descriptor is forgotten when its address space ends in this turn.
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
        """Return the descriptors that can be read, and note since when their tasks may have waited.

        With `busy` (a chunk is to be copied) the call does not wait. Otherwise it waits until a
        descriptor can be read, or for AGAIN_MS while a fault is to be tried again.
        """
        timeout_ms = 0 if busy else AGAIN_MS if self._faults else None
        ready = [descriptor for descriptor, _ in self._poll.poll(timeout_ms)]
        now_ns = time.monotonic_ns()
        # A fault that is seen now was raised after the previous poll, or ended this one. That
        # bounds how long its task has waited.
        self._waiting_since_ns, self._looked_ns = self._looked_ns if busy else now_ns, now_ns
        return ready

    def _next_chunk(self, *, fill: bool) -> tuple[int, Range] | None:
        """Return the next chunk as (address space, addresses), or None if there is none.

        With `fill`, address spaces that have all their pages are closed on the way: each fork
        brings another descriptor, and their number is limited.
        """
        if self._first:
            number, (start, end) = self._first.popleft()
            cut = min(end, start + self._chunk_bytes)
            if cut < end:
                self._first.appendleft((number, (cut, end)))
            return number, (start, cut)
        for number in self._spaces.numbers() if fill else ():
            if self._spaces[number].missing:
                piece = self._spaces[number].missing.first(self._chunk_bytes)
                return number, (piece.start, piece.end)
            if self.witness is not None:
                self.witness.filled(number)
            self._close(number)
        return None

    def _copy_chunk(self, number: int, wanted: Range) -> None:
        """Copy the pages of a chunk that are still missing, and adapt the size of later chunks."""
        started_ns, copied_bytes = time.monotonic_ns(), self.served.copied_bytes
        for piece in self._spaces[number].missing.within(*wanted) if number in self._spaces else ():
            if not self._copy(number, piece):
                break
        if self.served.copied_bytes - copied_bytes == self._chunk_bytes:
            slow = time.monotonic_ns() - started_ns > CHUNK_NS
            self._chunk_bytes = self._chunk_bytes // 2 if slow else self._chunk_bytes * 2
            self._chunk_bytes = min(max(self._chunk_bytes, LEAST_CHUNK_BYTES), MOST_CHUNK_BYTES)

    def _read(self, number: int) -> None:
        event = uffd_copy.next_event(self._spaces[number].uffd)
        if event is None:  # the fault was resolved meanwhile, or its task was killed
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
        """Copy the page that a task waits for; return False if it must be tried again.

        A page that had no content when it was dumped becomes a page of zeros.
        """
        if number not in self._spaces:
            return True
        piece = self._spaces[number].missing.around(address, AROUND_BYTES)
        if piece is not None:
            return self._copy(number, piece)
        try:
            uffd_copy.zero(self._spaces[number].uffd, address - address % PAGE_SIZE)
        except NotNow:
            return False
        except Ended:
            self._close(number)
        return True

    def _copy(self, number: int, piece: Piece) -> bool:
        """Copy a piece from the store; return False if the rest of it must be tried again."""
        space, at, most = self._spaces[number], piece.start, MOST_CHUNK_BYTES
        while at < piece.end:
            size = min(most, piece.end - at)
            self._store.read(space.dst_id, at + piece.shift, self._buffer.view[:size])
            try:
                settled = self._buffer.copy(space.uffd, at, size)
            except NotNow:
                return False
            except Ended:
                self._close(number)
                return True
            if not settled:  # a mapping ends within these bytes: go on page by page
                most = PAGE_SIZE
            space.missing.drop(at, at + settled)
            self.served.copied_bytes += settled
            at += settled
        return True

    def _close(self, number: int) -> None:
        """Close an address space that has ended, or that has all its pages."""
        uffd = self._spaces[number].uffd
        self._poll.unregister(uffd)
        del self._numbers[uffd]
        self._spaces.close(number)
