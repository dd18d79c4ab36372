"""Batches of pages on the wire: extents of an image, zero pages left out, a digest over the others."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

from checkpoint.bounded import ADDRESS_BITS, ImageId, PageAddress, PageCount
from checkpoint.criu.page_wire import PAGE_SIZE, PE_LAZY, PE_PARENT, PE_PRESENT
from checkpoint.errors import DataInvalid, ImageError
from checkpoint.images import encoding
from checkpoint.schema import Range

Extent = tuple[int, int, int, int, memoryview]
ZERO_PAGE = bytes(PAGE_SIZE)
ZEROS = memoryview(bytes(256 * PAGE_SIZE))
#: Of one batch: bytes that are sent, and pages with those of zeros. A peer cannot make us unpack more.
MAX_BYTES, MAX_PAGES = 4 << 20, (1 << 30) // PAGE_SIZE


class PageExtent(NamedTuple):
    """Pages of an image, with the flags of CRIU's pagemap entry. Those of zeros carry no bytes."""

    dst_id: ImageId
    vaddr: PageAddress
    pages: PageCount
    flags: Annotated[int, Range(0, PE_PARENT | PE_LAZY | PE_PRESENT)]
    zero: bool

    def check(self) -> None:
        """Raise DataInvalid for pages beyond the last address, and for zeros that are not there."""
        if self.vaddr + self.pages * PAGE_SIZE > 1 << ADDRESS_BITS:
            raise DataInvalid(f"{self.pages} pages at {self.vaddr:#x} are beyond the last address")
        if self.zero and not self.flags & PE_PRESENT:
            raise DataInvalid(f"pages at {self.vaddr:#x} are said to be zeros and not to be there")


def digest_of(data: bytes | memoryview) -> str:
    """CRC-32. SSH authenticates what it carries; this is against defects at either end, and costs next to nothing."""
    return f"{zlib.crc32(data):08x}"


def unpack(
    extents: Sequence[PageExtent],
    payload: bytes | bytearray | memoryview,
    encoded: str,
    digest: str,
) -> Iterator[Extent]:
    """The extents of a batch with their bytes, zeros in pieces made as they are taken.

    Raises ImageError when they do not add up, before the first.
    """
    there = [extent for extent in extents if extent.flags & PE_PRESENT]
    size = sum(extent.pages for extent in there if not extent.zero) * PAGE_SIZE
    if size > MAX_BYTES or sum(extent.pages for extent in there) > MAX_PAGES:
        raise ImageError(
            f"a batch of {len(there)} extents with {size} bytes of pages is over the bound"
        )
    data = encoding.decode(payload, encoded, size)
    if digest_of(data) != digest:
        raise ImageError("a batch of pages was damaged on the way")
    return _with_bytes(extents, data)


def _with_bytes(extents: Sequence[PageExtent], data: memoryview) -> Iterator[Extent]:
    for dst_id, vaddr, pages, flags, zero in extents:
        if zero:
            yield from _zeros(dst_id, vaddr, pages, flags)
        else:
            taken = pages * PAGE_SIZE if flags & PE_PRESENT else 0
            yield dst_id, vaddr, pages, flags, data[:taken]
            data = data[taken:]


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
