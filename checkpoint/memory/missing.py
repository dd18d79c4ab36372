"""What of an address space is still to be filled in, and from where. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import NamedTuple

from checkpoint.memory.ranges import Range


class Piece(NamedTuple):
    """Addresses [start, end). What belongs there was at `start + shift` when it was dumped."""

    start: int
    end: int
    shift: int


class Missing:
    """Disjoint pieces in the order of their addresses."""

    def __init__(self, pieces: Iterable[Piece] = ()) -> None:
        self._pieces = list(pieces)

    @classmethod
    def of(cls, ranges: Iterable[Range]) -> Missing:
        """Nothing was moved yet."""
        return cls(Piece(start, end, 0) for start, end in ranges)

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def copy(self) -> Missing:
        """The same for another address space: a fork's."""
        return Missing(self._pieces)

    def first(self, size: int) -> Piece:
        """Where to go on: at most `size` bytes."""
        start, end, shift = self._pieces[0]
        return Piece(start, min(end, start + size), shift)

    def around(self, address: int, block: int) -> Piece | None:
        """The piece with that address, cut to its aligned block; None if nothing is missing there."""
        index = self._from(address)
        if index == len(self._pieces) or self._pieces[index].start > address:
            return None
        start, end, shift = self._pieces[index]
        low = address - address % block
        return Piece(max(start, low), min(end, low + block), shift)

    def within(self, start: int, end: int) -> list[Piece]:
        """All pieces there, cut to it."""
        found = []
        for index in range(self._from(start), len(self._pieces)):
            piece = self._pieces[index]
            if piece.start >= end:
                break
            found.append(piece._replace(start=max(piece.start, start), end=min(piece.end, end)))
        return found

    def drop(self, start: int, end: int) -> None:
        """Nothing is missing there any more."""
        first = last = self._from(start)
        left = []
        while last < len(self._pieces) and self._pieces[last].start < end:
            piece = self._pieces[last]
            if piece.start < start:
                left.append(piece._replace(end=start))
            if piece.end > end:
                left.append(piece._replace(start=end))
            last += 1
        self._pieces[first:last] = left

    def move(self, old: int, new: int, size: int) -> None:
        """mremap(2): what is missing there is missing here; what was here is gone."""
        by = new - old
        moved = [
            Piece(start + by, end + by, shift - by)
            for start, end, shift in self.within(old, old + size)
        ]
        self.drop(old, old + size)
        self.drop(new, new + size)
        at = self._from(new)
        self._pieces[at:at] = moved

    def _from(self, address: int) -> int:
        """Index of the first piece that ends behind an address."""
        return bisect.bisect_right(self._pieces, address, key=lambda piece: piece.end)
