"""The address spaces of restored tasks and the pages missing in each. No I/O except closing."""

from __future__ import annotations

import os
from dataclasses import dataclass

from checkpoint.criu.page_server import dst_id_of_process
from checkpoint.memory.pager.missing import Missing
from checkpoint.memory.pager.uffd_copy import FORK, REMAP, REMOVE, UNMAP, Event
from checkpoint.memory.store import LazyRanges


@dataclass
class Space:
    """One address space.

    `uffd` is its userfaultfd, `dst_id` the number (page_server.py) of the image that its pages come
    from, `missing` the pages that it still needs.
    """

    uffd: int
    dst_id: int
    missing: Missing


class AddressSpaces:
    """The address spaces by number, in the order in which they came.

    Two processes that are told the same, as pager and keeper are, use the same numbers. `lazy` has
    the lazy ranges by dst_id. The descriptors belong to this object, which closes them.
    """

    def __init__(self, lazy: LazyRanges) -> None:
        self.lazy = lazy
        self._spaces: dict[int, Space] = {}
        self._count = 0

    def open(self, uffd: int, pid: int) -> int:
        """Add the address space of a restored task, and return its number.

        `pid` is the task's in its own pid namespace, which names its image.
        """
        dst_id = dst_id_of_process(pid)
        return self._add(Space(uffd, dst_id, Missing.of(self.lazy.get(dst_id, []))))

    def change(self, number: int, event: Event, uffd: int) -> int:
        """Follow an event of an address space, and return its number, or that of a forked child.

        A fork adds the child's address space, with `uffd` as the child's userfaultfd.
        """
        space, arguments = self._spaces[number], event.arguments
        if event.kind == FORK:
            return self._add(Space(uffd, space.dst_id, space.missing.copy()))
        if event.kind == REMAP:
            space.missing.move(*arguments)
        elif event.kind in (REMOVE, UNMAP):
            space.missing.drop(*arguments[:2])
        return number

    def close(self, number: int) -> None:
        """Close and forget an address space. Its number is not used again."""
        os.close(self._spaces.pop(number).uffd)

    def close_all(self) -> None:
        """Close and forget all address spaces."""
        for number in list(self._spaces):
            self.close(number)

    def unfilled(self) -> int | None:
        """Return the number of an address space with missing pages; None if there is none."""
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
