"""Batches of pages between the hosts: the form of a batch, its gathering, and its unpacking.

A batch has extents, and the bytes of their pages. Pages of zeros are sent without their bytes, and
a digest covers the bytes of the others. The source gathers batches of about 1 MiB (PageBatches).
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from checkpoint.criu.page_server import (
    PAGE_SIZE,
    PE_PRESENT,
    dst_id_of_process,
)
from checkpoint.errors import CheckpointError, ImageError
from checkpoint.memory import ranges
from checkpoint.memory.process_memory import read_pages
from checkpoint.memory.ranges import Range
from migrate.memory import encoding
from migrate.wire.values import PageExtent

#: (dst_id, vaddr, pages, flags, bytes of the pages). There are no bytes without PE_PRESENT.
Extent = tuple[int, int, int, int, memoryview]
#: {dst_id: (a process's pid on this host, its pid in its own pid namespace)}.
Processes = Mapping[int, tuple[int, int]]
ZERO_PAGE = bytes(PAGE_SIZE)
ZEROS = memoryview(bytes(256 * PAGE_SIZE))
#: Bounds of one batch: bytes of pages that are sent, and pages with those of zeros. They keep the
#: source from making the target unpack more.
MAX_BYTES, MAX_PAGES = 4 << 20, (1 << 30) // PAGE_SIZE


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


#: The most extents of one batch, whose header is then well under the bound of a frame.
MAX_EXTENTS = 1024


class Carrier(Protocol):
    """The interface through which full batches are sent (migrate/memory/channels.py)."""

    def buffer(self) -> memoryview:
        """Return an unused buffer to be filled."""

    def submit(
        self,
        extents: Sequence[PageExtent],
        buffer: memoryview,
        used: int,
        *,
        into_images: bool,
        forget: Sequence[int],
    ) -> None:
        """Take a batch and the buffer with its bytes; see PageChannels.submit."""

    def drain(self) -> None:
        """Wait until all batches have gone out."""

    def take_lost(self) -> Sequence[PageExtent]:
        """Return, once, what was in batches that were lost on the way."""


class PageBatches:
    """A gatherer of extents, which passes a batch on to the carrier when it is full.

    With `into_images` the pages go into image files, otherwise into the page store. `progress` is
    called after each batch with the bytes of pages that were passed on so far, zero pages not
    counted. `processes` returns the processes that live, for pages that were lost on the way.
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        into_images: bool = False,
        progress: Callable[[int], None] = lambda data_bytes: None,
        processes: Callable[[], Processes] = dict,
    ) -> None:
        self._carrier, self._into_images, self._progress = carrier, into_images, progress
        self._processes = processes
        self._extents: list[PageExtent] = []
        self._pages_gathered = 0
        self._buffer = carrier.buffer()
        self._used = 0
        self._forget: list[int] = []
        self.pages = 0
        self.pages_zero = 0
        self.data_bytes = 0

    def add(self, process: int, vaddr: int, data: memoryview) -> None:
        """Add pages of a process. `process` is the pid in the process's own pid namespace."""
        self.extent(dst_id_of_process(process), vaddr, len(data) // PAGE_SIZE, PE_PRESENT, data)

    def add_memory(self, pid: int, process: int, wanted: list[Range]) -> list[Range]:
        """Read the pages `wanted` of a process, running or frozen, and add them.

        `pid` is the process's pid on this host; `process` is its pid in its own pid namespace.
        Returns the pages that cannot be read.
        """
        read: list[Range] = []
        for vaddr, data in read_pages(pid, wanted):
            self.add(process, vaddr, data)
            read.append((vaddr, vaddr + len(data)))
        if ranges.size(read) == ranges.size(wanted):
            return []
        return ranges.difference(wanted, ranges.union(read, []))

    def add_all_memory(self, pid: int, process: int, wanted: list[Range]) -> None:
        """Read the pages `wanted` of a frozen process, and add them, as `add_memory` does.

        Raises ImageError if one of them cannot be read.
        """
        if unread := self.add_memory(pid, process, wanted):
            raise ImageError(f"process {pid}: its page at {unread[0][0]:#x} cannot be read")

    def forget(self, dst_id: int) -> None:
        """Have the target drop all pages of an address space that ended, by its dst_id.

        Pages of that dst_id that were added before are dropped; those that are added later are
        kept. The next batch carries the order, at the latest the one of `flush`.
        """
        if self._extents:
            self.pass_on()
        self._forget.append(dst_id)

    def extent(self, dst_id: int, vaddr: int, pages: int, flags: int, data: memoryview) -> None:
        """Add an extent in the terms of CRIU's page server (checkpoint/criu/page_server.py).

        `data` is copied, but for zero pages, which are only counted; it is empty for pages that
        bring no bytes.
        """
        if not data:
            self._add(dst_id, vaddr, pages, flags, zero=False)
            return
        self.pages += pages
        for first, count, zero in split_zeros(data):
            piece = data[first * PAGE_SIZE : (first + count) * PAGE_SIZE]
            if not zero and self._used + len(piece) > len(self._buffer):
                self.pass_on()
            self._add(dst_id, vaddr + first * PAGE_SIZE, count, flags, zero=zero)
            if zero:
                self.pages_zero += count
            else:
                self._buffer[self._used : self._used + len(piece)] = piece
                self._used += len(piece)

    def flush(self) -> None:
        """Send what is gathered, and wait until everything was handed to SSH."""
        self.pass_on()
        self._carrier.drain()
        while lost := self._carrier.take_lost():
            self._read_again(lost)
            self.pass_on()
            self._carrier.drain()

    def pass_on(self) -> None:
        """Pass on what is gathered, without waiting until it is sent."""
        if self._extents or self._forget:
            self.data_bytes += self._used
            self._carrier.submit(
                self._extents,
                self._buffer,
                self._used,
                into_images=self._into_images,
                forget=self._forget,
            )
            self._buffer = self._carrier.buffer()
            self._extents, self._forget, self._used, self._pages_gathered = [], [], 0, 0
            self._progress(self.data_bytes)

    def _read_again(self, lost: Sequence[PageExtent]) -> None:
        """Add pages that were lost, as they are now: what was written since is sent later anyway.

        A page that cannot be read any more is gone from its process, or its process is.
        """
        wanted: dict[int, list[Range]] = {}
        for extent in lost:
            end = extent.vaddr + extent.pages * PAGE_SIZE
            wanted.setdefault(extent.dst_id, []).append((extent.vaddr, end))
        processes = self._processes()
        for dst_id in wanted.keys() & processes.keys():
            with contextlib.suppress(CheckpointError, OSError):
                self.add_memory(*processes[dst_id], ranges.union(wanted[dst_id], []))

    def _add(self, dst_id: int, vaddr: int, pages: int, flags: int, *, zero: bool) -> None:
        there = pages if flags & PE_PRESENT else 0
        if len(self._extents) == MAX_EXTENTS or self._pages_gathered + there > MAX_PAGES:
            self.pass_on()
        self._extents.append(PageExtent(dst_id, vaddr, pages, flags, zero))
        self._pages_gathered += there
