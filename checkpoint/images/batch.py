"""Batches of pages on the wire: extents of an image, zero pages left out, a digest over the others.

An extent is [dst_id, vaddr, pages, flags, zero]: `zero` extents carry no bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

from checkpoint.criu.page_wire import PAGE_SIZE, PE_PRESENT
from checkpoint.errors import ImageError
from checkpoint.images import encoding

Extent = tuple[int, int, int, int, memoryview]
ZERO_PAGE = bytes(PAGE_SIZE)
ZEROS = memoryview(bytes(256 * PAGE_SIZE))
#: Of one batch. A peer cannot make us unpack more.
MAX_BYTES = 4 << 20


def digest_of(data: bytes | memoryview) -> str:
    """CRC-32. SSH authenticates what it carries; this is against defects at either end, and costs next to nothing."""
    return f"{zlib.crc32(data):08x}"


def unpack(extents: list[Any], payload: bytes | bytearray | memoryview, encoded: str, digest: str) -> Iterator[Extent]:
    """The extents of a batch with their bytes. Raises ImageError when they do not add up, before the first."""
    checked = [_checked(extent) for extent in extents]
    size = sum(pages * PAGE_SIZE for _, _, pages, flags, zero in checked if flags & PE_PRESENT and not zero)
    if size > MAX_BYTES:
        raise ImageError(f"a batch of {size} bytes of pages is over the bound")
    data = encoding.decode(payload, encoded, size)
    if digest_of(data) != digest:
        raise ImageError("a batch of pages was damaged on the way")
    for dst_id, vaddr, pages, flags, zero in checked:
        if zero:
            yield from _zeros(dst_id, vaddr, pages, flags)
        else:
            taken = pages * PAGE_SIZE if flags & PE_PRESENT else 0
            yield dst_id, vaddr, pages, flags, data[:taken]
            data = data[taken:]


def _checked(extent: Any) -> tuple[int, int, int, int, bool]:
    if not isinstance(extent, list) or [type(field) for field in extent] != [int, int, int, int, bool]:
        raise ImageError(f"{str(extent)[:80]} is not an extent of pages")
    if min(extent) < 0:
        raise ImageError(f"{extent} is not an extent of pages")
    return extent[0], extent[1], extent[2], extent[3], extent[4]


def _zeros(dst_id: int, vaddr: int, pages: int, flags: int) -> Iterator[Extent]:
    while pages:
        count = min(pages, len(ZEROS) // PAGE_SIZE)
        yield dst_id, vaddr, count, flags, ZEROS[: count * PAGE_SIZE]
        vaddr += count * PAGE_SIZE
        pages -= count


def split_zeros(data: memoryview) -> Iterator[tuple[int, int, bool]]:
    """(first page, pages, zero) runs of whole pages, alternating zero and not."""
    # bytes.startswith is a memcmp; comparing memoryviews goes element by element.
    content = bytes(data)
    start, zero = 0, False
    for index in range(len(content) // PAGE_SIZE):
        offset = index * PAGE_SIZE
        is_zero = content[offset] == 0 and content.startswith(ZERO_PAGE, offset)
        if is_zero != zero:
            if index > start:
                yield start, index - start, zero
            start, zero = index, is_zero
    if len(content) // PAGE_SIZE > start:
        yield start, len(content) // PAGE_SIZE - start, zero
