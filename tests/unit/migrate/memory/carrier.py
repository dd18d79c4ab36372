"""A carrier of batches that keeps what it is given."""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint.criu.page_server import PAGE_SIZE, PE_PRESENT, PIECE_BYTES
from migrate.memory import batches, encoding
from migrate.wire.values import PageExtent


class Carrier:
    """A carrier that keeps a copy of each batch, and uses one buffer again and again.

    Real carriers use their buffers again, too.
    """

    def __init__(self) -> None:
        self.batches: list[tuple[Sequence[PageExtent], bytes]] = []
        self.into_images: set[bool] = set()
        self.forgotten: list[list[int]] = []
        self.drained = 0
        #: What take_lost returns next.
        self.lost: list[PageExtent] = []
        self._buffer = memoryview(bytearray(PIECE_BYTES))

    def buffer(self) -> memoryview:
        return self._buffer

    def submit(
        self,
        extents: Sequence[PageExtent],
        buffer: memoryview,
        used: int,
        *,
        into_images: bool,
        forget: Sequence[int],
    ) -> None:
        self.batches.append((extents, bytes(buffer[:used])))
        self.into_images.add(into_images)
        self.forgotten.append(list(forget))

    def drain(self) -> None:
        self.drained += 1

    def take_lost(self) -> list[PageExtent]:
        lost, self.lost = self.lost, []
        return lost

    def extents(self) -> list[tuple[int, int, int, int, bytes]]:
        return [
            (*extent[:4], bytes(extent[4]))
            for extents, data in self.batches
            for extent in batches.unpack(extents, data, encoding.RAW, batches.digest_of(data))
        ]

    def pages(self) -> list[tuple[int, int, bytes]]:
        """Return (image, address, content) of each page, in the order of arrival."""
        found = []
        for dst_id, vaddr, pages, flags, data in self.extents():
            assert flags == PE_PRESENT
            assert len(data) == pages * PAGE_SIZE
            for page in range(pages):
                content = data[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
                found.append((dst_id, vaddr + page * PAGE_SIZE, content))
        return found
