"""Making CRIU's memory images from the pages in the page store."""

from __future__ import annotations

from collections.abc import Iterable

from checkpoint.criu.images.pagemap import PageImages
from checkpoint.criu.page_server import PAGE_SIZE, PE_LAZY, PE_PRESENT
from checkpoint.memory import ranges
from checkpoint.memory.ranges import Range
from checkpoint.memory.store import PageStore

NOTHING = memoryview(b"")
#: The most that is copied from the store to an image in one step: RAM that is needed twice.
PIECE_BYTES = 1 << 20
#: To free a range in the store takes some 10 us, however small it is, and the container is frozen
#: meanwhile. Copied ranges are therefore freed together, once they amount to this much. Until then
#: these bytes are in RAM twice.
LEAST_GIVEN_BYTES = 256 << 10


def fold(
    store: PageStore, images: PageImages, dst_id: int, extents: Iterable[tuple[int, int, bool]]
) -> list[Range]:
    """Append (vaddr, pages, lazy) extents to an image, and return their lazy ranges.

    Lazy pages stay in the store, from which the pager serves them. The others are moved from the
    store to the image. The image is made even if there are no extents: CRIU asks for an image of
    every shared mapping, also of one that no process ever wrote to. Raises ImageError for a page
    that never came, and for extents that are out of order.
    """
    images.open(dst_id)
    lazy_ranges: list[Range] = []
    copied: list[Range] = []
    for vaddr, pages, lazy in extents:
        end = vaddr + pages * PAGE_SIZE
        if lazy:
            store.check(dst_id, vaddr, end)
            images.extent(dst_id, vaddr, pages, PE_LAZY, NOTHING)
            lazy_ranges.append((vaddr, end))
            continue
        for start in range(vaddr, end, PIECE_BYTES):
            copied.append((start, min(start + PIECE_BYTES, end)))
            _copy(store, images, dst_id, copied[-1])
            if ranges.size(copied) >= LEAST_GIVEN_BYTES:
                _give_back(store, dst_id, copied)
    return lazy_ranges


def _copy(store: PageStore, images: PageImages, dst_id: int, pages: Range) -> None:
    data = memoryview(bytearray(pages[1] - pages[0]))
    store.read(dst_id, pages[0], data)
    images.extent(dst_id, pages[0], len(data) // PAGE_SIZE, PE_PRESENT, data)


def _give_back(store: PageStore, dst_id: int, copied: list[Range]) -> None:
    while copied:
        store.give_back(dst_id, *copied.pop())
