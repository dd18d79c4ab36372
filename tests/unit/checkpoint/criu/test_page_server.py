"""Tests of checkpoint/criu/page_server.py, over a real socket, in both layouts of the command."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from checkpoint.criu import page_server
from checkpoint.criu.page_server import PAGE_SIZE, PE_LAZY, PE_PARENT, PE_PRESENT, PIECE_BYTES
from checkpoint.errors import ImageError

# These are written out from criu/page-xfer.c, and not taken from the module under test.
OLD, NEW = struct.Struct("=IIQQ"), struct.Struct("=I4xQQQ")
OPEN2, PARENT, ADD_F, GET, CLOSE, FORCE_CLOSE = 4, 5, 6, 7, 0x1023, 0x1024
BASE, IMAGE = 0x7F00_0000_0000, 7 << 8 | 1
LIMIT_S = 20


@dataclass
class Session:
    """A page server in a thread, and CRIU's end of its socket."""

    layout: struct.Struct
    peer: socket.socket
    thread: threading.Thread
    extents: list[tuple[int, int, int, int, bytes]] = field(default_factory=list)
    failure: ImageError | None = None
    closing: list[int] = field(default_factory=list)
    parents: set[int] = field(default_factory=set)

    def extent(self, dst_id: int, vaddr: int, pages: int, flags: int, data: memoryview) -> None:
        self.extents.append((dst_id, vaddr, pages, flags, bytes(data)))

    def tell(self, word: int, pages: int = 0, vaddr: int = 0, dst_id: int = IMAGE) -> None:
        self.peer.sendall(self.layout.pack(word, pages, vaddr, dst_id))

    def add(self, pages: int, vaddr: int, flags: int, data: bytes = b"") -> None:
        self.tell(ADD_F | flags << 16, pages, vaddr)
        self.peer.sendall(data)

    def end(self) -> None:
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()


@pytest.fixture(params=[(40101, OLD), (40200, NEW)], ids=["4.1.1", "4.2"])
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    version, layout = request.param
    ours, theirs = socket.socketpair()
    theirs.settimeout(LIMIT_S)

    def serve() -> None:
        try:
            served = page_server.wire_struct(version)
            page_server.serve(
                ours,
                served,
                found,
                before_close=lambda: found.closing.append(len(found.extents)),
                has_parent=found.parents.__contains__,
            )
        except ImageError as error:
            found.failure = error

    with ours, theirs:
        found = Session(layout=layout, peer=theirs, thread=threading.Thread(target=serve))
        found.thread.start()
        yield found
        theirs.shutdown(socket.SHUT_RDWR)
        found.end()


@pytest.mark.parametrize(
    ("version", "layout"), [(31600, OLD), (40199, OLD), (40200, NEW), (40201, NEW), (50000, NEW)]
)
def test_each_version_of_criu_has_its_layout(version: int, layout: struct.Struct) -> None:
    assert page_server.wire_struct(version).format == layout.format


def test_a_session_gives_all_extents_in_order(session: Session) -> None:
    session.tell(OPEN2)
    assert session.peer.recv(1) == b"\0"
    session.add(2, BASE, PE_PRESENT, b"a" * PAGE_SIZE + b"b" * PAGE_SIZE)
    session.add(5, BASE + 2 * PAGE_SIZE, PE_LAZY)
    session.add(1, BASE + 7 * PAGE_SIZE, PE_PARENT)
    session.tell(CLOSE)
    assert session.peer.recv(4, socket.MSG_WAITALL) == struct.pack("=i", 0)
    session.end()
    assert session.extents == [
        (IMAGE, BASE, 2, PE_PRESENT, b"a" * PAGE_SIZE + b"b" * PAGE_SIZE),
        (IMAGE, BASE + 2 * PAGE_SIZE, 5, PE_LAZY, b""),
        (IMAGE, BASE + 7 * PAGE_SIZE, 1, PE_PARENT, b""),
    ]
    assert session.closing == [3], "told once, after the last extent"


def test_a_forced_close_is_confirmed(session: Session) -> None:
    session.tell(FORCE_CLOSE)
    assert session.peer.recv(4, socket.MSG_WAITALL) == struct.pack("=i", 0)
    session.end()
    assert session.extents == []


def test_an_image_that_did_not_come_before_has_no_parent(session: Session) -> None:
    session.tell(PARENT)
    assert session.peer.recv(4, socket.MSG_WAITALL) == struct.pack("=i", 0)


def test_an_image_that_came_before_has_a_parent(session: Session) -> None:
    session.parents.add(IMAGE)
    session.tell(PARENT)
    assert session.peer.recv(4, socket.MSG_WAITALL) == struct.pack("=i", 1)
    session.tell(OPEN2)
    assert session.peer.recv(1) == b"\x01"
    session.tell(OPEN2, dst_id=IMAGE + 256)
    assert session.peer.recv(1) == b"\0"


def test_a_large_extent_comes_in_pieces(session: Session) -> None:
    pages = 2 * PIECE_BYTES // PAGE_SIZE + 3
    data = b"".join(struct.pack("=Q", number) * (PAGE_SIZE // 8) for number in range(pages))
    session.add(pages, BASE, PE_PRESENT, data)
    session.tell(CLOSE)
    session.peer.recv(4, socket.MSG_WAITALL)
    session.end()
    assert b"".join(piece for *_, piece in session.extents) == data
    at = BASE
    for _, vaddr, count, _, piece in session.extents:
        assert vaddr == at
        assert len(piece) == count * PAGE_SIZE <= PIECE_BYTES
        at += len(piece)


@pytest.mark.parametrize(
    "sent", ["nothing", "half a command", "a command without its pages", "part of its pages"]
)
def test_an_early_end_is_an_error(session: Session, sent: str) -> None:
    if sent == "half a command":
        session.peer.sendall(bytes(session.layout.size // 2))
    elif sent != "nothing":
        session.add(2, BASE, PE_PRESENT, b"a" * PAGE_SIZE if sent == "part of its pages" else b"")
    session.peer.shutdown(socket.SHUT_WR)
    session.end()
    assert session.failure is not None
    assert session.closing == []


@pytest.mark.parametrize("word", [0, 1, 2, 3, GET, 99, 0x1025])
def test_an_unknown_command_is_an_error(session: Session, word: int) -> None:
    session.tell(word)
    session.end()
    assert session.failure is not None
    assert f"{word:#x}" in str(session.failure)


@pytest.mark.parametrize(
    ("pages", "vaddr", "flags", "image"),
    [
        (0, BASE, PE_PRESENT, IMAGE),
        (1 << 31, (1 << 63) - PAGE_SIZE, PE_PRESENT, IMAGE),
        (1, (1 << 64) - PAGE_SIZE, PE_LAZY, IMAGE),
        (1, BASE + 1, PE_PRESENT, IMAGE),
        (1, BASE, 8, IMAGE),
        (1, BASE, PE_PRESENT | 1 << 15, IMAGE),
        (1, BASE, PE_PRESENT, 7 << 8),
        (1, BASE, PE_PRESENT, 7 << 8 | 3),
    ],
)
def test_pages_that_no_process_has_are_refused(
    session: Session, pages: int, vaddr: int, flags: int, image: int
) -> None:
    session.tell(ADD_F | flags << 16, pages, vaddr, image)
    session.end()
    assert session.failure is not None
    assert session.extents == []
