"""The form of a batch of pages between the hosts: extents, and the bytes of their pages.

Pages of zeros are sent without their bytes, and a digest covers the bytes of the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

from checkpoint.bounded import ADDRESS_BITS, ImageId, PageAddress, PageCount
from checkpoint.criu.page_server import PAGE_SIZE, PE_LAZY, PE_PARENT, PE_PRESENT
from checkpoint.errors import DataInvalid, ImageError
from checkpoint.schema import Range
from migrate.memory import encoding

#: (dst_id, vaddr, pages, flags, bytes of the pages). There are no bytes without PE_PRESENT.
Extent = tuple[int, int, int, int, memoryview]
ZERO_PAGE = bytes(PAGE_SIZE)
ZEROS = memoryview(bytes(256 * PAGE_SIZE))
#: Bounds of one batch: bytes of pages that are sent, and pages with those of zeros. They keep the
#: source from making the target unpack more.
MAX_BYTES, MAX_PAGES = 4 << 20, (1 << 30) // PAGE_SIZE


class PageExtent(NamedTuple):
    """Consecutive pages of one address space, with the flags of CRIU's pagemap entry.

    `vaddr` is the address of the first page in bytes. If `zero` is true, all bytes of the pages are
    zeros and are not sent.
    """

    dst_id: ImageId
    vaddr: PageAddress
    pages: PageCount
    flags: Annotated[int, Range(0, PE_PARENT | PE_LAZY | PE_PRESENT)]
    zero: bool

    def check(self) -> None:
        """Raise DataInvalid for pages beyond the last address, or zeros without PE_PRESENT."""
        if self.vaddr + self.pages * PAGE_SIZE > 1 << ADDRESS_BITS:
            raise DataInvalid(f"{self.pages} pages at {self.vaddr:#x} are beyond the last address")
        if self.zero and not self.flags & PE_PRESENT:
            raise DataInvalid(f"pages at {self.vaddr:#x} are said to be zeros and not to be there")


def digest_of(data: bytes | memoryview) -> str:
    """Return the CRC-32 of some bytes as eight hexadecimal digits.

    SSH authenticates the bytes that it carries. This digest is against defects in the programs at
    either end, for which a CRC is enough and costs next to nothing.
    """
    return f"{zlib.crc32(data):08x}"


def unpack(
    extents: Sequence[PageExtent],
    payload: bytes | bytearray | memoryview,
    encoded: str,
    digest: str,
) -> Iterator[Extent]:
    """Return an iterator over the extents of a batch with their bytes.

    `payload` has the bytes of all pages but those of zeros, in the encoding `encoded`. `digest` is
    `digest_of` these bytes before they were encoded. Pages of zeros come in pieces, none of which
    takes memory of its own.
    Raises ImageError at the call, and so before the first extent, when the payload is damaged, does
    not fit the extents or is over the bounds.
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
    """Yield runs of pages that are all zeros or all not, as (first page, pages, zero).

    `data` has whole pages. The runs alternate, and together cover all of them in order.
    """
    # bytes.startswith is a memcmp; memoryviews are compared element by element.
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
