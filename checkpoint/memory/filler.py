"""Copy pages from the store into address spaces: at once where a task waits for one, all others while none does."""

from __future__ import annotations

import select
import time
from dataclasses import dataclass, field
from typing import Protocol

from checkpoint.memory import uffd_fill
from checkpoint.memory.address_spaces import AddressSpaces
from checkpoint.memory.missing import Piece
from checkpoint.memory.store import PageStore
from checkpoint.memory.uffd import PAGE_SIZE
from checkpoint.memory.uffd_fill import FAULT, FORK, Buffer, Changing, Ended, Event

#: Copied at one go while nobody waits: who comes meanwhile waits for so much, some 0.1 ms.
CHUNK_BYTES = 256 << 10
#: Copied around the address of who waits: what is near is wanted next.
AROUND_BYTES = 64 << 10


class Listener(Protocol):
    """Who is told of changes before they are followed (keeper.py)."""

    def changed(self, number: int, event: Event, uffd: int) -> None: ...


@dataclass
class Served:
    """What was done. `waits_ns`: for each page that a task waited for, how long that was at most."""

    waits_ns: list[int] = field(default_factory=list)
    copied_bytes: int = 0
    finished_ns: int = 0


class Filler:
    """Works in turns, each short."""

    def __init__(self, store: PageStore, spaces: AddressSpaces) -> None:
        self._store, self._spaces = store, spaces
        self.keeper: Listener | None = None
        self._buffer = Buffer(CHUNK_BYTES)
        self._poll = select.poll()
        self._numbers: dict[int, int] = {}
        self._again: list[tuple[int, int]] = []
        self._quiet_ns = time.monotonic_ns()
        self.served = Served()

    def watch(self, number: int) -> None:
        """Serve an address space."""
        uffd = self._spaces[number].uffd
        self._numbers[uffd] = number
        self._poll.register(uffd, select.POLLIN)

    def watch_other(self, descriptor: int) -> None:
        """`turn` is to tell when this one can be read."""
        self._poll.register(descriptor, select.POLLIN)

    def forget_other(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)

    def turn(self, *, fill: bool) -> list[int]:
        """Serve who waits; if nobody does and `fill`, copy a chunk. Returns which other descriptors can be read."""
        unfilled = self._spaces.unfilled() if fill else None
        ready = [descriptor for descriptor, _ in self._poll.poll(None if unfilled is None else 0)]
        if not ready:
            self._quiet_ns = time.monotonic_ns()
            assert unfilled is not None
            self._copy(unfilled, self._spaces[unfilled].missing.first(CHUNK_BYTES))
        for descriptor in ready:
            if descriptor in self._numbers:
                self._serve(self._numbers[descriptor])
        return [descriptor for descriptor in ready if descriptor not in self._numbers]

    def _serve(self, number: int) -> None:
        faults, self._again = self._again, []
        for event in uffd_fill.events(self._spaces[number].uffd):
            if event.kind == FAULT:
                faults.append((number, event.arguments[1]))
            else:
                self._change(number, event)
        for fault in faults:
            if self._answer(*fault):
                self.served.waits_ns.append(time.monotonic_ns() - self._quiet_ns)
            else:
                self._again.append(fault)

    def _change(self, number: int, event: Event) -> None:
        child = event.arguments[0] if event.kind == FORK else -1
        if self.keeper is not None:
            self.keeper.changed(number, event, child)
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
            uffd_fill.zero(self._spaces[number].uffd, address - address % PAGE_SIZE)  # it never had content
        except Changing:
            return False
        except Ended:
            self._end(number)
        return True

    def _copy(self, number: int, piece: Piece) -> bool:
        """False when it must be tried again, after a change that waits to be read."""
        space, at = self._spaces[number], piece.start
        while at < piece.end:
            size = min(CHUNK_BYTES, piece.end - at)
            self._store.read(space.image, at + piece.shift, self._buffer.view[:size])
            try:
                settled = self._buffer.copy(space.uffd, at, size) or self._buffer.copy(space.uffd, at, PAGE_SIZE)
            except Changing:
                return False
            except Ended:
                self._end(number)
                return True
            space.missing.drop(at, at + settled)
            self.served.copied_bytes += settled
            at += settled
        return True

    def _end(self, number: int) -> None:
        uffd = self._spaces[number].uffd
        self._poll.unregister(uffd)
        del self._numbers[uffd]
        self._spaces.close(number)
