"""Proof of memory: which pages two hosts compare, and the digests by which they do. No I/O here.

The source reads pages of the frozen container, the target reads the same pages from what it restores the
container from. Both make their digests in the same order; the target's are sent to the source, which
compares them before it kills anything. Both ends know the same page list (the page maps of CRIU's dump), so
a seed is enough to name the pages of a sample.
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
from checkpoint.memory.uffd import PAGE_SIZE

DIGEST_BYTES = 16
#: One page of a sample is drawn by a 64-bit number: its remainder favours no page that could be told.
DRAW = struct.Struct("=Q")
#: One digest covers so much of an image, at most, where all pages are compared.
CHUNK_BYTES = 1 << 20
#: A sample of pages costs each host about 10 us a page.
SAMPLE_PAGES = 128

#: By image, which is a dst_id of CRIU's page server (criu/page-xfer.c): the pages it has, in rising order.
Images = Mapping[int, Sequence[Range]]
#: By image: address and bytes of each area, in rising order; none goes beyond the end of its page.
Areas = Mapping[int, Sequence[tuple[int, int]]]
#: Reads (image, address, bytes to fill); False where this end cannot read that page.
Reader = Callable[[int, int, memoryview], bool]


class Piece(NamedTuple):
    """Pages [start, end) of one image, covered by one digest."""

    image: int
    start: int
    end: int


def pieces(images: Images, seed: bytes | None) -> Iterator[Piece]:
    """Return what is compared: a sample drawn by `seed`, or all pages where there is none."""
    return everything(images) if seed is None else sample(images, seed)


def everything(images: Images) -> Iterator[Piece]:
    """Yield pieces of at most CHUNK_BYTES that cover all pages, by image and address."""
    for image in sorted(images):
        for start, end in images[image]:
            for at in range(start, end, CHUNK_BYTES):
                yield Piece(image=image, start=at, end=min(at + CHUNK_BYTES, end))


def sample(images: Images, seed: bytes, pages: int = SAMPLE_PAGES) -> Iterator[Piece]:
    """Yield `pages` single pages, each drawn from all pages with equal chance; the same for the same seed."""
    places = [(image, start, end) for image in sorted(images) for start, end in images[image]]
    ends = list(itertools.accumulate((end - start) // PAGE_SIZE for _, start, end in places))
    drawn = hashlib.shake_128(seed).digest(DRAW.size * pages if ends else 0)
    for (number,) in DRAW.iter_unpack(drawn):
        page = number % ends[-1]
        index = bisect.bisect_right(ends, page)
        image, _, end = places[index]
        start = end - (ends[index] - page) * PAGE_SIZE
        yield Piece(image=image, start=start, end=start + PAGE_SIZE)


def digests(
    pieces: Iterator[Piece], read: Reader, left_out: Areas
) -> Iterator[tuple[Piece, bytes | None]]:
    """Yield each piece with the digest of its content; None where it cannot be read.

    What is in an area of `left_out` counts as zeros.
    SHA-256, cut to DIGEST_BYTES: processors have instructions for it, which make it twice as fast as BLAKE2b.
    """
    buffer = memoryview(bytearray(PAGE_SIZE))
    for piece in pieces:
        if (size := piece.end - piece.start) > len(buffer):
            buffer = memoryview(bytearray(CHUNK_BYTES))
        view = buffer[:size]
        known = read(piece.image, piece.start, view)
        if left_out:
            _leave_out(left_out.get(piece.image, ()), piece, view)
        yield piece, hashlib.sha256(view).digest()[:DIGEST_BYTES] if known else None


def _leave_out(areas: Sequence[tuple[int, int]], piece: Piece, view: memoryview) -> None:
    for index in range(bisect.bisect_left(areas, (piece.start, 0)), len(areas)):
        address, size = areas[index]
        if address >= piece.end:
            break
        at = address - piece.start
        view[at : at + size] = bytes(len(view[at : at + size]))


def page_count(images: Images) -> int:
    """Return how many pages the images have."""
    return sum(ranges.size(pages) for pages in images.values()) // PAGE_SIZE


def chance_to_miss(wrong_pages: int, sampled: int, total: int) -> float:
    """Return the probability that a sample of `sampled` pages meets none of `wrong_pages` among `total`."""
    return (1 - min(wrong_pages, total) / total) ** sampled if total else 0.0
