"""Parsers of what comes from the other host, and from stations of the container's network."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from checkpoint.criu.images.pagemap import PageImages
from checkpoint.criu.page_server import PAGE_SIZE, PE_LAZY, PE_PRESENT, dst_id_of_process
from checkpoint.errors import ImageError
from checkpoint.files.rsync import _sent_bytes
from checkpoint.memory.store import PageStore
from checkpoint.network.frames import ETHERNET_HEADER_BYTES, VIRTIO_HEADER_BYTES, is_for
from checkpoint.network.link import ARP_FRAME_BYTES, answered
from migrate.memory import batches, encoding
from migrate.wire import protocol
from migrate.wire.message import Message
from migrate.wire.values import PageExtent
from tests.fuzz.parser import Parser
from transport.errors import EndOfStream, StreamError
from transport.framing import PREFIX, FrameStream

RAM = Path("/dev/shm")  # noqa: S108
MAC, ADDRESS = bytes.fromhex("0200000000aa"), bytes((10, 7, 0, 9))


class Bytes:
    """A ByteStream whose bytes come in small pieces."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def read_into(self, view: memoryview) -> int:
        size = min(len(view), len(self._data), 37)
        view[:size] = self._data[:size]
        self._data = self._data[size:]
        return size

    def write(self, data: bytes | memoryview) -> None: ...

    def close(self) -> None: ...


def framing(data: bytes) -> None:
    stream, seen = FrameStream(Bytes(data)), 0
    with contextlib.suppress(EndOfStream):
        while True:
            header, payload = stream.receive()
            seen += PREFIX.size + len(header) + len(payload)
    assert seen == len(data)


def message(data: bytes) -> None:
    header, _, payload = data.partition(b"\0")
    found: Message = protocol.decode(header, payload, Message)
    assert protocol.decode(protocol.encode(found), payload, Message) == found


def pages(data: bytes) -> None:
    """Read a message with a batch of pages: its header, then what is on the wire."""
    header, _, payload = data.partition(b"\0")
    found = protocol.decode(header, payload, protocol.Pages)
    size = 0
    for _, _, count, flags, piece in batches.unpack(
        found.extents, found.payload, found.encoding, found.digest
    ):
        assert len(piece) == (count * PAGE_SIZE if flags & PE_PRESENT else 0)
        size += len(piece)
    assert size <= batches.MAX_PAGES * PAGE_SIZE


def decompress(data: bytes) -> None:
    size = int.from_bytes(data[:2], "big") * PAGE_SIZE
    assert len(encoding.decode(data[2:], encoding.ZSTD, size)) == size


OPERATION = struct.Struct("=BQQQB")


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="migrate-fuzz-", dir=RAM))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def page_images(data: bytes) -> None:
    """Write extents into images.

    An extent is (flags, image, address, pages), and says how many pages' bytes come along.
    """
    with _directory() as directory, PageImages(directory) as images:
        for flags, image, vaddr, count, came in OPERATION.iter_unpack(
            data[: len(data) // OPERATION.size * OPERATION.size]
        ):
            images.extent(image, vaddr, count, flags, memoryview(bytes(came * PAGE_SIZE)))
        images.write_pagemaps()


def page_store(data: bytes) -> None:
    """Put pages into the store, and look whether they are found again."""
    with _directory() as directory, PageStore(directory) as store:
        expected: dict[tuple[int, int], bytes] = {}
        for number, (_, image, vaddr, _, came) in enumerate(
            OPERATION.iter_unpack(data[: len(data) // OPERATION.size * OPERATION.size])
        ):
            page = struct.pack("=Q", number + 1) * (PAGE_SIZE // 8)
            store.put(image, vaddr, memoryview(page * came))
            expected |= {(image, vaddr + index * PAGE_SIZE): page for index in range(came)}
        found = memoryview(bytearray(PAGE_SIZE))
        for (image, vaddr), page in expected.items():
            store.read(image, vaddr, found)
            assert found == page


def arp(data: bytes) -> None:
    mac = answered(data, ADDRESS)
    assert mac is None or (len(mac) == 6 and len(data) >= ARP_FRAME_BYTES and ADDRESS in data)


def frame(data: bytes) -> None:
    assert not is_for(MAC, data) or len(data) >= VIRTIO_HEADER_BYTES + ETHERNET_HEADER_BYTES


def rsync_statistics(data: bytes) -> None:
    assert 0 <= _sent_bytes(os.fsdecode(data)) < 10**24


def _frame(header: bytes, payload: bytes = b"") -> bytes:
    return PREFIX.pack(len(header), len(payload)) + header + payload


def _operation(
    vaddr: int, count: int, came: int, flags: int = PE_PRESENT, image: int = dst_id_of_process(7)
) -> bytes:
    return OPERATION.pack(flags, image, vaddr, count, came)


_ARP = (
    b"\xff" * 6
    + MAC
    + struct.pack("!HHHBBH6s4s6s4s", 0x0806, 1, 0x0800, 6, 4, 2, MAC, ADDRESS, bytes(6), bytes(4))
)
_BASE = 0x7F00_0000_0000
_MESSAGES: tuple[Message, ...] = (
    protocol.Hello(
        version=1,
        migration_id="0123456789ab",
        source="alpha",
        engine="runc",
        container_name="c",
        traces=False,
    ),
    protocol.Clock(monotonic_ns=1, batches=0),
)


def _pages(*extents: PageExtent, payload: bytes, kind: str = encoding.RAW) -> bytes:
    sent = bytes(encoding.encode(memoryview(payload), kind))
    found = protocol.Pages(
        number=0,
        into_images=False,
        extents=extents,
        encoding=kind,
        digest=batches.digest_of(payload),
        forget=(),
        payload=sent,
    )
    return protocol.encode(found) + b"\0" + sent


_IMAGE = dst_id_of_process(7)
_EXTENTS = (
    PageExtent(_IMAGE, 4096, 1, PE_PRESENT, False),
    PageExtent(_IMAGE, 8192, 9, PE_PRESENT, True),
)
PARSERS = {
    "framing": Parser(
        run=framing, refuses=(StreamError,), seeds=(_frame(b"{}"), _frame(b"{}", b"x" * 99) * 2)
    ),
    "message": Parser(
        run=message, refuses=(protocol.ProtocolError,), seeds=tuple(map(protocol.encode, _MESSAGES))
    ),
    "pages": Parser(
        run=pages,
        refuses=(protocol.ProtocolError, ImageError),
        seeds=tuple(
            _pages(*_EXTENTS, payload=b"p" * PAGE_SIZE, kind=kind)
            for kind in (encoding.RAW, encoding.ZSTD)
        ),
    ),
    "zstd": Parser(
        run=decompress,
        refuses=(ImageError,),
        seeds=tuple(
            b"\0\1" + bytes(encoding.encode(memoryview(page * PAGE_SIZE), encoding.ZSTD))
            for page in (b"\0", b"x")
        ),
    ),
    "page-images": Parser(
        run=page_images,
        refuses=(ImageError,),
        seeds=(_operation(_BASE, 2, 2) + _operation(_BASE + 2 * PAGE_SIZE, 9, 0, PE_LAZY),),
    ),
    "page-store": Parser(
        run=page_store,
        refuses=(ImageError,),
        seeds=(
            _operation(_BASE, 2, 2) + _operation(_BASE - PAGE_SIZE, 9, 5),
            _operation(0, 1, 1, image=0x902),
        ),
    ),
    "arp": Parser(run=arp, refuses=(), seeds=(_ARP, _ARP.ljust(60, b"\0"))),
    "frame": Parser(run=frame, refuses=(), seeds=(bytes(10) + MAC + bytes(60),)),
    "rsync-statistics": Parser(
        run=rsync_statistics,
        refuses=(),
        seeds=(b"\nTotal bytes sent: 1,234\nTotal bytes received: 5\n",),
    ),
}
