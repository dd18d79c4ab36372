"""The server's side of CRIU's page-server protocol (CRIU criu/page-xfer.c).

A command is `struct page_server_iov` in host byte order. Up to CRIU 4.1 that is
{u32 cmd, u32 nr_pages, u64 vaddr, u64 dst_id}; from 4.2 `nr_pages` is a u64 and 4 bytes of padding
come before it. There is no handshake, so the version must be known beforehand.
`cmd` = flags << 16 | code; `dst_id` = id << 8 | type. The id is that of an address space: a pid, or
CRIU's id of a piece of shared memory.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Protocol

from checkpoint.bounded import ADDRESS_BITS
from checkpoint.errors import ImageError

PAGE_SIZE = 4096
#: The most bytes that a sink is given at once. CRIU's own extents may be larger.
PIECE_BYTES = 1 << 20

OPEN2 = 4
PARENT = 5
ADD_F = 6
CLOSE = 0x1023
FORCE_CLOSE = 0x1024

#: Flags of a pagemap entry (CRIU criu/include/pagemap.h): its pages are in the parent, may be
#: restored lazily, come with their bytes.
PE_PARENT = 1
PE_LAZY = 2
PE_PRESENT = 4

PE_KNOWN = PE_PARENT | PE_LAZY | PE_PRESENT

PS_TYPE_PID = 1
PS_TYPE_SHMEM = 2
#: The end of addresses in processes, and of offsets in shared memory.
END = 1 << ADDRESS_BITS


def dst_id_of_process(pid: int) -> int:
    """Return the dst_id of a process's memory. `pid` is the one in its own pid namespace."""
    return pid << 8 | PS_TYPE_PID


def check_extent(dst_id: int, vaddr: int, pages: int) -> None:
    """Raise ImageError unless these numbers can be those of an extent of an address space."""
    if dst_id & 0xFF not in (PS_TYPE_PID, PS_TYPE_SHMEM) or not 0 < dst_id < 1 << 64:
        raise ImageError(f"pages of an image of unknown kind, {dst_id:#x}")
    if vaddr % PAGE_SIZE or pages <= 0 or not 0 <= vaddr <= END - pages * PAGE_SIZE:
        raise ImageError(f"{pages} pages at {vaddr:#x} are in nobody's memory")


class Sink(Protocol):
    """The receiver of the pages that CRIU sends."""

    def extent(self, dst_id: int, vaddr: int, pages: int, flags: int, data: memoryview) -> None:
        """Take the pages [vaddr, vaddr + pages * PAGE_SIZE) of an address space.

        `data` is valid during the call only. For an entry without PE_PRESENT `data` is empty: CRIU
        notes that the pages exist elsewhere.
        """


def wire_struct(criu_version: int) -> struct.Struct:
    """Return the layout of page_server_iov for a CRIU version (40201 is 4.2.1)."""
    return struct.Struct("=I4xQQQ") if criu_version >= 40200 else struct.Struct("=IIQQ")


def no_parent(dst_id: int) -> bool:
    """Return False: no address space has a parent, so CRIU sends every page with its bytes."""
    return False


def serve(
    sock: socket.socket,
    layout: struct.Struct,
    sink: Sink,
    *,
    before_close: Callable[[], None] = lambda: None,
    has_parent: Callable[[int], bool] = no_parent,
) -> None:
    """Answer one CRIU until it closes the session, and hand its pages to `sink`.

    `before_close` runs before CRIU is told that all pages are safe. `has_parent` returns whether an
    earlier session brought the address space with that dst_id; if so, pages that were not written
    since come without their bytes, with PE_PARENT.
    Raises ImageError when the stream ends early, or holds a command or pages that a dump never
    sends.
    """
    header = memoryview(bytearray(layout.size))
    piece = memoryview(bytearray(PIECE_BYTES))
    while True:
        _read(sock, header)
        word, pages, vaddr, dst_id = layout.unpack(header)
        code, flags = word & 0xFFFF, word >> 16
        if code == ADD_F:
            check_extent(dst_id, vaddr, pages)
            if flags & ~PE_KNOWN:
                raise ImageError(f"page server: pages with unknown flags {flags:#x}")
            if flags & PE_PRESENT:
                _take(sock, piece, sink, (dst_id, vaddr, pages, flags))
            else:
                sink.extent(dst_id, vaddr, pages, flags, piece[:0])
        elif code == OPEN2:
            sock.sendall(bytes([has_parent(dst_id)]))
        elif code == PARENT:
            sock.sendall(struct.pack("=i", has_parent(dst_id)))
        elif code in (CLOSE, FORCE_CLOSE):
            before_close()
            sock.sendall(struct.pack("=i", 0))
            return
        else:
            raise ImageError(f"page server: unknown command {word:#x}")


def _take(
    sock: socket.socket, piece: memoryview, sink: Sink, extent: tuple[int, int, int, int]
) -> None:
    dst_id, vaddr, pages, flags = extent
    while pages:
        count = min(pages, PIECE_BYTES // PAGE_SIZE)
        data = piece[: count * PAGE_SIZE]
        _read(sock, data)
        sink.extent(dst_id, vaddr, count, flags, data)
        vaddr += count * PAGE_SIZE
        pages -= count


def _read(sock: socket.socket, into: memoryview) -> None:
    done = 0
    while done < len(into):
        got = sock.recv_into(into[done:], 0, socket.MSG_WAITALL)
        if not got:
            raise ImageError("page server: CRIU closed the stream before it said CLOSE")
        done += got
