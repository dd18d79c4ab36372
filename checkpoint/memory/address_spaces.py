"""The address spaces of restored tasks, and what becomes of what is missing in them. No I/O but closing."""

from __future__ import annotations

import os
from dataclasses import dataclass

from checkpoint.criu.page_wire import process_id
from checkpoint.memory.missing import Missing
from checkpoint.memory.ranges import Range
from checkpoint.memory.uffd_fill import FORK, REMAP, REMOVE, UNMAP, Event


@dataclass
class Space:
    """One: its userfaultfd, the image its pages come from (a dst_id of page_wire.py), and what is missing."""

    uffd: int
    image: int
    missing: Missing


class AddressSpaces:
    """Numbered in the order in which they come: two processes that are told the same use the same numbers."""

    def __init__(self, lazy: dict[int, list[Range]]) -> None:
        self._lazy = lazy
        self._spaces: dict[int, Space] = {}
        self._count = 0

    def open(self, uffd: int, pid: int) -> int:
        """A task's, whose pid in its namespace, and in the names of images, is `pid`. Returns its number."""
        image = process_id(pid)
        return self._add(Space(uffd, image, Missing.of(self._lazy.get(image, []))))

    def change(self, number: int, event: Event, uffd: int) -> int:
        """Follow a change of mappings. A fork's child comes with its `uffd`, and its number is returned."""
        space, arguments = self._spaces[number], event.arguments
        if event.kind == FORK:
            return self._add(Space(uffd, space.image, space.missing.copy()))
        if event.kind == REMAP:
            space.missing.move(*arguments)
        elif event.kind in (REMOVE, UNMAP):
            space.missing.drop(*arguments[:2])
        return number

    def close(self, number: int) -> None:
        """It ended. Its number is not used again."""
        os.close(self._spaces.pop(number).uffd)

    def close_all(self) -> None:
        """All memory is in place, or wanted no more."""
        for number in list(self._spaces):
            self.close(number)

    def unfilled(self) -> int | None:
        """One of which something is missing."""
        return next((number for number, space in self._spaces.items() if space.missing), None)

    def numbers(self) -> list[int]:
        return list(self._spaces)

    def __getitem__(self, number: int) -> Space:
        return self._spaces[number]

    def __contains__(self, number: int) -> bool:
        return number in self._spaces

    def _add(self, space: Space) -> int:
        self._count += 1
        self._spaces[self._count] = space
        return self._count
