"""Batches of pages on the wire: extents of an image, zero pages left out, a digest over what is sent.

An extent is [dst_id, vaddr, pages, flags, zero]: `zero` extents carry no bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from checkpoint.criu.page_wire import PAGE_SIZE, PE_PRESENT
from checkpoint.errors import ImageError

Extent = tuple[int, int, int, int, memoryview]
ZERO_PAGE = bytes(PAGE_SIZE)
ZEROS = memoryview(bytes(256 * PAGE_SIZE))
RAW = "raw"


def digest_of(data: bytes | memoryview) -> str:
    """Against corruption on the way and in our own code; SSH already keeps attackers out."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def unpack(extents: list[Any], payload: bytes | memoryview, encoding: str, digest: str) -> Iterator[Extent]:
    """The extents of a batch with their bytes. Raises ImageError when they do not add up."""
    if encoding != RAW:
        raise ImageError(f"pages come in an unknown encoding {encoding!r}")
    data = memoryview(payload)
    if digest_of(data) != digest:
        raise ImageError("a batch of pages was damaged on the way")
    for dst_id, vaddr, pages, flags, zero in extents:
        if zero:
            yield from _zeros(dst_id, vaddr, pages, flags)
            continue
        size = pages * PAGE_SIZE if flags & PE_PRESENT else 0
        yield dst_id, vaddr, pages, flags, data[:size]
        data = data[size:]
    if data:
        raise ImageError(f"a batch of pages has {len(data)} bytes too many")


def _zeros(dst_id: int, vaddr: int, pages: int, flags: int) -> Iterator[Extent]:
    while pages:
        count = min(pages, len(ZEROS) // PAGE_SIZE)
        yield dst_id, vaddr, count, flags, ZEROS[: count * PAGE_SIZE]
        vaddr += count * PAGE_SIZE
        pages -= count


def split_zeros(pages: int, data: memoryview) -> Iterator[tuple[int, int, bool]]:
    """(first page, pages, zero) runs of `data`, alternating zero and not."""
    start, zero = 0, False
    for index in range(pages):
        is_zero = data[index * PAGE_SIZE : (index + 1) * PAGE_SIZE] == ZERO_PAGE
        if is_zero != zero:
            if index > start:
                yield start, index - start, zero
            start, zero = index, is_zero
    if pages > start:
        yield start, pages - start, zero
