"""Make CRIU's memory images of what the page store holds."""

from __future__ import annotations

from collections.abc import Iterable

from checkpoint.criu.page_wire import PAGE_SIZE, PE_LAZY, PE_PRESENT
from checkpoint.images.pagemap import PageImages
from checkpoint.memory.ranges import Range
from checkpoint.memory.store import PageStore

NOTHING = memoryview(b"")
#: Copied from the store to an image in one step: the RAM that the move needs twice.
PIECE_BYTES = 1 << 20


def fold(store: PageStore, images: PageImages, dst_id: int, extents: Iterable[tuple[int, int, bool]]) -> list[Range]:
    """Append (vaddr, pages, lazy) extents to an image, which exists afterwards even without any.

    CRIU asks for an image of every shared mapping, also of one that no process ever wrote to. Lazy pages
    stay in the store, from which the pager serves them; the others are moved from the store to the image.
    Returns the lazy ranges. Raises ImageError for a page that never came, and for extents that are out of
    order.
    """
    images.open(dst_id)
    lazy_ranges = []
    for vaddr, pages, lazy in extents:
        end = vaddr + pages * PAGE_SIZE
        if lazy:
            store.check(dst_id, vaddr, end)
            images.extent(dst_id, vaddr, pages, PE_LAZY, NOTHING)
            lazy_ranges.append((vaddr, end))
        else:
            _move(store, images, dst_id, (vaddr, end))
    return lazy_ranges


def _move(store: PageStore, images: PageImages, dst_id: int, pages: Range) -> None:
    """Piece by piece, so that the memory is never in RAM twice."""
    buffer = memoryview(bytearray(min(PIECE_BYTES, pages[1] - pages[0])))
    for start in range(*pages, PIECE_BYTES):
        end = min(start + PIECE_BYTES, pages[1])
        data = buffer[: end - start]
        store.read(dst_id, start, data)
        images.extent(dst_id, start, len(data) // PAGE_SIZE, PE_PRESENT, data)
        store.give_back(dst_id, start, end)
