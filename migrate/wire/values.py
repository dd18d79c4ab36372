"""The types of values in messages (protocol.py), and the cut of long lists. No I/O here."""

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
    DstId,
    FileTime,
    ImageName,
    InterfaceName,
    Ipv4Address,
    MacAddress,
    Microseconds,
    Nanoseconds,
    PageAddress,
    PageCount,
    TreePath,
)
from checkpoint.criu.page_server import PE_LAZY, PE_PARENT, PE_PRESENT
from checkpoint.errors import DataInvalid
from checkpoint.schema import MOST_ITEMS, Length, Pattern, Range

#: The id of a migration, made by migrate/report.py. Directories and files are named by it.
MigrationId = Annotated[str, Pattern(r"[0-9a-f]{12}")]
#: The name of an instant of the freeze: a notification of CRIU's, or a name of the agent's own
#: (docs/report.md).
StageName = Annotated[str, Pattern(r"[A-Za-z][A-Za-z -]{0,39}")]
#: The number of page channels, up to several times what sshd allows on one connection.
Channels = Annotated[int, Range(1, 64)]
#: The bytes of one piece of a payload (MAX_PAYLOAD of transport/framing.py).
PieceSize = Annotated[int, Range(0, 16 << 20)]
#: The most characters that a piece of a long list takes in the header of its message.
PIECE_CHARACTERS = 1 << 19

T = TypeVar("T")


class Stamp(NamedTuple):
    """An instant of the freeze on the target's clock."""

    name: StageName
    at_ns: Nanoseconds


Stamps = Annotated[tuple[Stamp, ...], Length(256)]


class Station(NamedTuple):
    """A host on the network that answers for an IPv4 address."""

    address: Ipv4Address
    mac: MacAddress


class OwnAddress(NamedTuple):
    """An IPv4 address of the container, with its MAC address and the bridge it is reached by."""

    address: Ipv4Address
    mac: MacAddress
    bridge: InterfaceName


#: The beginning of a probe's file name. The target looks into no other file.
PROBE_PREFIX = ".migrate-probe-"


class Probe(NamedTuple):
    """A file that the source has made in a tree; a host that reads its secret shares the tree."""

    path: Annotated[AbsolutePath, Pattern(rf"/(.*/)?{re.escape(PROBE_PREFIX)}[0-9a-f]{{8}}")]
    token: Annotated[str, Pattern(r"[0-9a-f]{32}")]


class DirectoryTime(NamedTuple):
    """A directory of a tree, and its modification time."""

    path: TreePath
    mtime_ns: FileTime


class ImagePiece(NamedTuple):
    """The next bytes of an image file: its name, and how many bytes of the payload they are."""

    name: ImageName
    bytes: PieceSize


class MapExtent(NamedTuple):
    """Consecutive pages of an address space, all in the page store or all for the image files.

    Lazy pages stay in the page store and are filled in; the others are moved to the image files.
    """

    vaddr: PageAddress
    pages: PageCount
    lazy: bool


class PageExtent(NamedTuple):
    """Consecutive pages of one address space, with the flags of CRIU's pagemap entry.

    `vaddr` is the address of the first page in bytes. If `zero` is true, all bytes of the pages are
    zeros and are not sent.
    """

    dst_id: DstId
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


class Area(NamedTuple):
    """Memory of an address space that the kernel writes by itself (checkpoint/criu/images/rseq.py).

    `dst_id` is that of the address space.
    """

    dst_id: DstId
    address: Annotated[int, Range(0, 1 << ADDRESS_BITS)]
    bytes: Annotated[int, Range(0, PAGE_SIZE)]


class LateFrame(NamedTuple):
    """An Ethernet frame that came for the container in the freeze.

    `interface` is the index of the container's interface; `bytes` is the frame's part of the
    payload.
    """

    interface: Annotated[int, Range(0, 63)]
    bytes: PieceSize


class LogFile(NamedTuple):
    """The end of a log file, and the name under which the source keeps it (migrate/logs.py).

    `bytes` is the file's part of the payload.
    """

    name: Annotated[str, Pattern(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")]
    bytes: PieceSize


class Waits(NamedTuple):
    """The number of pages that a task waited for after the resume, and upper bounds of the waits.

    The bounds are the median, the 99th percentile and the longest.
    """

    pages: Count
    median_us: Microseconds
    p99_us: Microseconds
    worst_us: Microseconds


def in_pieces(items: Iterable[T]) -> Iterator[tuple[T, ...]]:
    """Split a list of JSON values into tuples, each small enough for the header of one message."""
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
