"""A writer of CRIU's image files of memory: pagemap-*.img and pages-*.img.

Format: CRIU images/pagemap.proto and criu/image.c. A pagemap file begins with two u32 magics.
Messages follow, each preceded by its u32 length: one pagemap_head, then a pagemap_entry for each
run of pages, in rising order of address. pages-N.img holds the bytes of the entries with
PE_PRESENT, in the order of the entries.
"""

from __future__ import annotations

import itertools
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path

from checkpoint.criu.page_server import (
    PAGE_SIZE,
    PE_PRESENT,
    PS_TYPE_PID,
    PS_TYPE_SHMEM,
    check_extent,
)
from checkpoint.errors import ImageError
from checkpoint.host import whole

#: IMG_COMMON_MAGIC and PAGEMAP_MAGIC of CRIU criu/include/magic.h.
MAGICS = struct.pack("=II", 0x54564319, 0x56084025)
U32_MAX = (1 << 32) - 1
NAMES = {PS_TYPE_PID: "pagemap-{}.img", PS_TYPE_SHMEM: "pagemap-shmem-{}.img"}


def varint(value: int) -> bytes:
    """Return a number in protobuf's encoding, base 128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_head(pages_id: int) -> bytes:
    """Return a pagemap_head message, preceded by its length."""
    return _sized(b"\x08" + varint(pages_id))


def encode_entry(vaddr: int, pages: int, flags: int) -> bytes:
    """Return a pagemap_entry message, preceded by its length.

    The number of pages is in two fields. compat_nr_pages (2) is required, and the only one that
    CRIU before 4.2 reads. CRIU from 4.2 on prefers nr_pages (5), which older versions do not know
    and skip.
    """
    compat = pages if pages <= U32_MAX else 0
    return _sized(
        b"\x08"
        + varint(vaddr)
        + b"\x10"
        + varint(compat)
        + b"\x20"
        + varint(flags)
        + b"\x28"
        + varint(pages)
    )


def _sized(message: bytes) -> bytes:
    return struct.pack("=I", len(message)) + message


@dataclass
class _Image:
    name: str
    pages_id: int
    fd: int
    entries: list[tuple[int, int, int]] = field(default_factory=list)

    def append(self, vaddr: int, pages: int, flags: int) -> None:
        """Add an entry, or lengthen the last entry if the new pages continue it.

        Raises ImageError for pages that are not behind the last entry.
        """
        if self.entries:
            last_vaddr, last_pages, last_flags = self.entries[-1]
            end = last_vaddr + last_pages * PAGE_SIZE
            if vaddr < end:
                raise ImageError(
                    f"{self.name}: extent at {vaddr:#x} comes after one that ends at {end:#x}"
                )
            if vaddr == end and flags == last_flags:
                self.entries[-1] = (last_vaddr, last_pages + pages, flags)
                return
        self.entries.append((vaddr, pages, flags))

    def offsets(self) -> list[int]:
        """Return the offset in the pages file of each entry's pages, in bytes.

        One more offset follows, which is the size of the file.
        """
        sizes = (pages * PAGE_SIZE if flags & PE_PRESENT else 0 for _, pages, flags in self.entries)
        return list(itertools.accumulate(sizes, initial=0))


class PageImages:
    """A writer of extents into memory image files in a directory. Use it as a context manager.

    Bytes of pages are written as they come, the pagemap files by `write_pagemaps`. The context
    closes the pages files at its end.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._images: dict[int, _Image] = {}

    def __enter__(self) -> PageImages:
        return self

    def __exit__(self, *_: object) -> None:
        for image in self._images.values():
            os.close(image.fd)
        self._images.clear()

    def extent(self, dst_id: int, vaddr: int, pages: int, flags: int, data: memoryview) -> None:
        """Append pages to the image of the address space `dst_id`.

        Extents of an address space must come in rising order. `data` has the bytes of the pages, or
        is empty without PE_PRESENT. Raises ImageError when numbers, lengths or order are wrong.
        """
        check_extent(dst_id, vaddr, pages)
        if len(data) != (pages * PAGE_SIZE if flags & PE_PRESENT else 0):
            raise ImageError(f"{pages} pages at {vaddr:#x} came with {len(data)} bytes")
        image = self.open(dst_id)
        image.append(vaddr, pages, flags)
        whole.write(image.fd, data)

    def write_pagemaps(self) -> None:
        """Write the pagemap file of every image. The pages files are complete already."""
        for image in self._images.values():
            body = [encode_entry(*entry) for entry in image.entries]
            (self._directory / image.name).write_bytes(
                b"".join([MAGICS, encode_head(image.pages_id), *body])
            )

    def by_id(self) -> dict[int, _Image]:
        """Return every image that was begun, by its dst_id."""
        return dict(self._images)

    def open(self, dst_id: int) -> _Image:
        """Begin the image of the address space `dst_id`, unless it is begun, and return it.

        Raises ImageError for an unknown kind of address space, and OSError.
        """
        if dst_id in self._images:
            return self._images[dst_id]
        name = NAMES.get(dst_id & 0xFF)
        if name is None:
            raise ImageError(f"an image of unknown kind, {dst_id:#x}")
        pages_id = len(self._images) + 1
        path = self._directory / f"pages-{pages_id}.img"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        image = self._images[dst_id] = _Image(name.format(dst_id >> 8), pages_id, fd)
        return image
