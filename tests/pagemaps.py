"""Read pagemap images as CRIU does, by the classes that its own protobuf description makes."""

from __future__ import annotations

import struct
from pathlib import Path

from pycriu.images import pagemap_pb2

HEADER_BYTES = 8  # two magics


def messages(path: Path) -> list[bytes]:
    """The head, then the entries."""
    data, offset, found = path.read_bytes(), HEADER_BYTES, []
    while offset < len(data):
        (size,) = struct.unpack_from("=I", data, offset)
        found.append(data[offset + 4 : offset + 4 + size])
        offset += 4 + size
    return found


def pages_id(path: Path) -> int:
    """The number of the file that holds the bytes."""
    return int(pagemap_pb2.pagemap_head.FromString(messages(path)[0]).pages_id)


def rows(path: Path) -> list[tuple[int, int, int]]:
    """(address, pages, flags) of each entry."""
    entries = [pagemap_pb2.pagemap_entry.FromString(message) for message in messages(path)[1:]]
    return [(entry.vaddr, entry.nr_pages, entry.flags) for entry in entries]
