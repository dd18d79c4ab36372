"""The memory that CRIU is about to restore: the target's side of the proof of memory."""

from __future__ import annotations

import bisect

from checkpoint.criu.images.pagemap import PageImages
from checkpoint.criu.page_server import PAGE_SIZE, PE_PRESENT
from checkpoint.errors import ImageError
from checkpoint.host import whole
from checkpoint.memory import ranges
from checkpoint.memory.ranges import Range
from checkpoint.memory.store import PageStore


class Restorable:
    """The memory that a restore will find: CRIU's memory images, and the store for lazy pages.

    The images must be complete.
    """

    def __init__(self, images: PageImages, store: PageStore) -> None:
        self._store = store
        self._images = images.by_id()
        self._offsets = {dst_id: image.offsets() for dst_id, image in self._images.items()}

    def pages(self) -> dict[int, list[Range]]:
        """Return by dst_id the ranges of all its pages, in rising order."""
        return {
            dst_id: ranges.union(
                [(vaddr, vaddr + pages * PAGE_SIZE) for vaddr, pages, _ in image.entries], []
            )
            for dst_id, image in self._images.items()
        }

    def read(self, dst_id: int, address: int, view: memoryview) -> bool:
        """Fill `view` with the pages of an image at an address, and return True (proof.Reader).

        Raises ImageError for a page that the image does not have, and IncompleteIO.
        """
        image = self._images[dst_id]
        index = bisect.bisect_right(image.entries, address, key=lambda entry: entry[0]) - 1
        while view:
            vaddr, pages, flags = (
                image.entries[index] if 0 <= index < len(image.entries) else (0, 0, 0)
            )
            size = min(len(view), vaddr + pages * PAGE_SIZE - address)
            if address < vaddr or size <= 0:
                raise ImageError(f"{image.name}: the page at {address:#x} is not in it")
            if flags & PE_PRESENT:
                whole.pread(image.fd, view[:size], self._offsets[dst_id][index] + address - vaddr)
            else:
                self._store.read(dst_id, address, view[:size])
            address, view, index = address + size, view[size:], index + 1
        return True
