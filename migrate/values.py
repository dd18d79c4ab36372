"""What stands inside messages (migrate/protocol.py), and how long lists of it are cut into several. No I/O here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple, TypeVar

from checkpoint.bounded import (
    ADDRESS_BITS,
    PAGE_SIZE,
    AbsolutePath,
    Count,
    FileTime,
    ImageId,
    ImageName,
    InterfaceName,
    Ipv4Address,
    MacAddress,
    Microseconds,
    Nanoseconds,
    PageAddress,
    PageCount,
    RelativePath,
)
from checkpoint.schema import MOST_ITEMS, Length, Pattern, Range

#: migrate/report.py makes it. It names directories and files.
MigrationId = Annotated[str, Pattern(r"[0-9a-f]{12}")]
#: A stage of the freeze, as CRIU names its notifications or the agent its own (docs/report.md).
StageName = Annotated[str, Pattern(r"[A-Za-z][A-Za-z -]{0,39}")]
#: As many as sshd allows sessions of one connection, several times.
Channels = Annotated[int, Range(1, 64)]
#: Of a piece within a payload (MAX_PAYLOAD of transport/framing.py).
PieceSize = Annotated[int, Range(0, 16 << 20)]
#: Of the header of one message of a long list.
PIECE_CHARACTERS = 1 << 19

T = TypeVar("T")


class Stamp(NamedTuple):
    """An instant on the agent's clock."""

    name: StageName
    at_ns: Nanoseconds


Stamps = Annotated[tuple[Stamp, ...], Length(256)]


class Station(NamedTuple):
    """Whoever answers for an IPv4 address."""

    address: Ipv4Address
    mac: MacAddress


class OwnAddress(NamedTuple):
    """An address of the container, on a bridge of its host."""

    address: Ipv4Address
    mac: MacAddress
    bridge: InterfaceName


#: The target looks into no file of another name.
PROBE_PREFIX = ".migrate-probe-"


class Probe(NamedTuple):
    """A file that the source has made, and what is in it."""

    path: Annotated[AbsolutePath, Pattern(rf"/(.*/)?{re.escape(PROBE_PREFIX)}[0-9a-f]{{8}}")]
    token: Annotated[str, Pattern(r"[0-9a-f]{32}")]


class DirectoryTime(NamedTuple):
    """A directory, and when it was modified."""

    path: RelativePath
    mtime_ns: FileTime


class ImagePiece(NamedTuple):
    """The next bytes of an image file."""

    name: ImageName
    bytes: PieceSize


class MapExtent(NamedTuple):
    """Pages of an image. Lazy pages stay in the store and are filled in, the others become images."""

    vaddr: PageAddress
    pages: PageCount
    lazy: bool


class Area(NamedTuple):
    """Memory of an image that the kernel writes by itself (checkpoint/images/rseq.py)."""

    image: ImageId
    address: Annotated[int, Range(0, 1 << ADDRESS_BITS)]
    bytes: Annotated[int, Range(0, PAGE_SIZE)]


class LateFrame(NamedTuple):
    """A frame that came for the container while it stood still."""

    interface: Annotated[int, Range(0, 63)]
    bytes: PieceSize


class LogFile(NamedTuple):
    """The end of a log. The name is a file's on the source, where it is kept (migrate/logs.py)."""

    name: Annotated[str, Pattern(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")]
    bytes: PieceSize


class Waits(NamedTuple):
    """How many pages a task waited for, and for how long at most: median, 99th of a hundred, worst."""

    pages: Count
    median_us: Microseconds
    p99_us: Microseconds
    worst_us: Microseconds


def in_pieces(items: Iterable[T]) -> Iterator[tuple[T, ...]]:
    """Values as they stand in messages, as many at a time as fit the header of one."""
    piece: list[T] = []
    size = 0
    for item in items:
        length = len(json.dumps(item)) + 1
        if piece and (size + length > PIECE_CHARACTERS or len(piece) == MOST_ITEMS):
            yield tuple(piece)
            piece, size = [], 0
        piece.append(item)
        size += length
    if piece:
        yield tuple(piece)
