"""The proof of memory: which pages the two hosts compare, and by which digests. No I/O here.

The source reads pages of the frozen container. The target reads the same pages of what it restores
the container from. Both make their digests in the same order. The target sends its digests to the
source, which compares them before it kills anything. Both hosts know the same page list (the page
maps of CRIU's dump), so that a seed is enough to name the pages of a sample.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from checkpoint.memory import ranges
from checkpoint.memory.ranges import Range
from checkpoint.memory.tracking.write_protection import PAGE_SIZE

DIGEST_BYTES = 16
#: Each page of a sample is drawn as the remainder of a 64-bit number. It favours some pages by too
#: little to matter.
DRAW = struct.Struct("=Q")
#: The most of an address space that one digest covers when all pages are compared.
CHUNK_BYTES = 1 << 20
#: The pages of a sample. Each costs each host about 10 us.
SAMPLE_PAGES = 128

#: By dst_id of CRIU's page server (criu/page-xfer.c): the ranges of its pages, in rising
#: order.
Pages = Mapping[int, Sequence[Range]]
#: By dst_id: (address, bytes) of each area, in rising order. No area goes beyond the end of its
#: page.
Areas = Mapping[int, Sequence[tuple[int, int]]]
#: A function (dst_id, address, view) that fills the view with the address space's pages at the
#: address and returns True, or returns False if this host cannot read them.
Reader = Callable[[int, int, memoryview], bool]


class Piece(NamedTuple):
    """Pages [start, end) of one address space, covered by one digest."""

    dst_id: int
    start: int
    end: int


def pieces(pages: Pages, seed: bytes | None) -> Iterator[Piece]:
    """Return the pieces to compare: a sample drawn by `seed`, or all pages if `seed` is None."""
    return everything(pages) if seed is None else sample(pages, seed)


def everything(pages: Pages) -> Iterator[Piece]:
    """Yield pieces of at most CHUNK_BYTES that cover all pages, in order of dst_id and address."""
    for dst_id in sorted(pages):
        for start, end in pages[dst_id]:
            for at in range(start, end, CHUNK_BYTES):
                yield Piece(dst_id=dst_id, start=at, end=min(at + CHUNK_BYTES, end))


def sample(pages: Pages, seed: bytes, count: int = SAMPLE_PAGES) -> Iterator[Piece]:
    """Yield `count` pieces of one page, each drawn from all pages with equal chance.

    The same pages and the same seed give the same pieces. A page may be drawn more than
    once. If there are no pages, none is drawn.
    """
    places = [(dst_id, start, end) for dst_id in sorted(pages) for start, end in pages[dst_id]]
    ends = list(itertools.accumulate((end - start) // PAGE_SIZE for _, start, end in places))
    drawn = hashlib.shake_128(seed).digest(DRAW.size * count if ends else 0)
    for (number,) in DRAW.iter_unpack(drawn):
        page = number % ends[-1]
        index = bisect.bisect_right(ends, page)
        dst_id, _, end = places[index]
        start = end - (ends[index] - page) * PAGE_SIZE
        yield Piece(dst_id=dst_id, start=start, end=start + PAGE_SIZE)


def digests(
    pieces: Iterator[Piece], read: Reader, left_out: Areas
) -> Iterator[tuple[Piece, bytes | None]]:
    """Yield each piece with the digest of its content, or with None if it cannot be read.

    The content of areas in `left_out` counts as zeros. The digest is SHA-256 cut to DIGEST_BYTES:
    processors have instructions for it, which make it twice as fast as BLAKE2b.
    """
    buffer = memoryview(bytearray(PAGE_SIZE))
    for piece in pieces:
        if (size := piece.end - piece.start) > len(buffer):
            buffer = memoryview(bytearray(CHUNK_BYTES))
        view = buffer[:size]
        known = read(piece.dst_id, piece.start, view)
        if left_out:
            _leave_out(left_out.get(piece.dst_id, ()), piece, view)
        yield piece, hashlib.sha256(view).digest()[:DIGEST_BYTES] if known else None


def _leave_out(areas: Sequence[tuple[int, int]], piece: Piece, view: memoryview) -> None:
    for index in range(bisect.bisect_left(areas, (piece.start, 0)), len(areas)):
        address, size = areas[index]
        if address >= piece.end:
            break
        at = address - piece.start
        view[at : at + size] = bytes(len(view[at : at + size]))


def page_count(pages: Pages) -> int:
    """Return how many pages there are."""
    return sum(ranges.size(pages) for pages in pages.values()) // PAGE_SIZE


def chance_to_miss(wrong_pages: int, sampled: int, total: int) -> float:
    """Return the probability that a sample misses every wrong page.

    `sampled` pages are drawn from `total` pages, of which `wrong_pages` are wrong.
    """
    return (1 - min(wrong_pages, total) / total) ** sampled if total else 0.0
