"""Make images of what the page store holds."""

from __future__ import annotations

from collections.abc import Iterable

from checkpoint.criu.page_wire import PAGE_SIZE, PE_LAZY, PE_PRESENT
from checkpoint.images.pagemap import PageImages
from checkpoint.memory.ranges import Range
from checkpoint.memory.store import PageStore

NOTHING = memoryview(b"")


def fold(store: PageStore, images: PageImages, dst_id: int, extents: Iterable[tuple[int, int, bool]]) -> list[Range]:
    """Append (vaddr, pages, lazy) extents to an image. What is lazy stays in the store (pager.py), the rest is copied.

    Returns what is lazy. Raises ImageError for a page that never came, and for extents that are out of order.
    """
    left = []
    for vaddr, pages, lazy in extents:
        if lazy:
            end = vaddr + pages * PAGE_SIZE
            store.check(dst_id, vaddr, end)
            images.extent(dst_id, vaddr, pages, PE_LAZY, NOTHING)
            left.append((vaddr, end))
            continue
        at = vaddr
        for piece in store.get(dst_id, vaddr, pages):
            images.extent(dst_id, at, len(piece) // PAGE_SIZE, PE_PRESENT, memoryview(piece))
            at += len(piece)
    return left
