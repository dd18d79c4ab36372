"""Pagemap images, read as CRIU reads them, by the classes of its own protobuf description."""

from __future__ import annotations

import struct
from pathlib import Path

from pycriu.images import pagemap_pb2

#: Two magic numbers.
HEADER_BYTES = 8


def messages(path: Path) -> list[bytes]:
    """Return the messages of an image: its head, then its entries."""
    data, offset, found = path.read_bytes(), HEADER_BYTES, []
    while offset < len(data):
        (size,) = struct.unpack_from("=I", data, offset)
        found.append(data[offset + 4 : offset + 4 + size])
        offset += 4 + size
    return found


def pages_id(path: Path) -> int:
    """Return the number of the image file that has the pages' bytes."""
    return int(pagemap_pb2.pagemap_head.FromString(messages(path)[0]).pages_id)


def rows(path: Path) -> list[tuple[int, int, int]]:
    """Return (address, pages, flags) of each entry."""
    entries = [pagemap_pb2.pagemap_entry.FromString(message) for message in messages(path)[1:]]
    return [(entry.vaddr, entry.nr_pages, entry.flags) for entry in entries]
