"""The missing pages of an address space, and where their content was when it was dumped. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import NamedTuple

from checkpoint.memory.ranges import Range


class Piece(NamedTuple):
    """Missing addresses [start, end). Their content was at `start + shift` when it was dumped."""

    start: int
    end: int
    shift: int


class Missing:
    """The missing pieces of one address space: disjoint, in rising order of address.

    The caller reports what happens to the address space by `drop` and `move`.
    """

    def __init__(self, pieces: Iterable[Piece] = ()) -> None:
        self._pieces = list(pieces)

    @classmethod
    def of(cls, ranges: Iterable[Range]) -> Missing:
        """Return the missing pages of an address space in which nothing was moved yet."""
        return cls(Piece(start, end, 0) for start, end in ranges)

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def copy(self) -> Missing:
        """Return a copy for the address space of a forked child."""
        return Missing(self._pieces)

    def first(self, size: int) -> Piece:
        """Return the first piece, cut to at most `size` bytes. There must be one."""
        start, end, shift = self._pieces[0]
        return Piece(start, min(end, start + size), shift)

    def around(self, address: int, block: int) -> Piece | None:
        """Return the piece with that address, cut to the aligned block of `block` bytes around it.

        Returns None if nothing is missing at the address.
        """
        index = self._from(address)
        if index == len(self._pieces) or self._pieces[index].start > address:
            return None
        start, end, shift = self._pieces[index]
        low = address - address % block
        return Piece(max(start, low), min(end, low + block), shift)

    def within(self, start: int, end: int) -> list[Piece]:
        """Return what is missing in [start, end), as pieces cut to that range."""
        found = []
        for index in range(self._from(start), len(self._pieces)):
            piece = self._pieces[index]
            if piece.start >= end:
                break
            found.append(piece._replace(start=max(piece.start, start), end=min(piece.end, end)))
        return found

    def drop(self, start: int, end: int) -> None:
        """Forget what is missing in [start, end): the pages are in place, or unmapped."""
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
        """Follow an mremap(2) of `size` bytes from address `old` to address `new`.

        What was missing at the old place is missing at the new one, and what was mapped there is
        gone.
        """
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
        """Return the index of the first piece that ends behind an address."""
        return bisect.bisect_right(self._pieces, address, key=lambda piece: piece.end)
