"""checkpoint/criu/page_wire.py: a session as CRIU speaks it, in both layouts."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from checkpoint.criu import page_wire
from checkpoint.criu.page_wire import (
    ADD_F,
    CLOSE,
    FORCE_CLOSE,
    GET,
    OPEN2,
    PAGE_SIZE,
    PARENT,
    PE_LAZY,
    PE_PARENT,
    PE_PRESENT,
    PIECE_BYTES,
    TYPE_PROCESS,
    TYPE_SHMEM,
    Totals,
)
from checkpoint.errors import ImageError

DST = 7 << 8 | TYPE_PROCESS
SHMEM = 123456789 << 8 | TYPE_SHMEM
VADDR = 0x7F00_0000_0000
LAYOUTS = {"4.1": 40101, "4.2": 40200}


def criu_header(version: int, word: int, pages: int, vaddr: int, dst_id: int) -> bytes:
    """struct page_server_iov as the compiler lays it out, with native alignment."""
    return struct.pack("@IIQQ" if version < 40200 else "@IQQQ", word, pages, vaddr, dst_id)


@dataclass
class Recorder:
    """A sink that keeps copies; it can be told to fail."""

    extents: list[tuple[int, int, int, int, bytes]] = field(default_factory=list)
    failure: Exception | None = None

    def extent(self, dst_id: int, vaddr: int, pages: int, flags: int, data: memoryview) -> None:
        if self.failure:
            raise self.failure
        self.extents.append((dst_id, vaddr, pages, flags, bytes(data)))


class Session:
    """`serve` in a thread, and CRIU's end of the socket."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.criu, self._ours = socket.socketpair()
        self.criu.settimeout(30)
        self.sink = Recorder()
        self.before_close: Callable[[], None] = lambda: None
        self._totals: Totals | None = None
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._ours:
            try:
                layout = page_wire.wire_struct(self.version)
                self._totals = page_wire.serve(self._ours, layout, self.sink, lambda: self.before_close())
            except Exception as error:  # noqa: BLE001 - raised again by end()
                self._failure = error

    def send(self, code: int, pages: int = 0, vaddr: int = 0, dst_id: int = 0, *, flags: int = 0) -> None:
        self.criu.sendall(criu_header(self.version, flags << 16 | code, pages, vaddr, dst_id))

    def receive(self, size: int) -> bytes:
        return self.criu.recv(size, socket.MSG_WAITALL)

    def end(self) -> Totals:
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self._failure:
            raise self._failure
        assert self._totals
        return self._totals

    def hang_up(self) -> None:
        self.criu.close()
        self._thread.join(30)


@pytest.fixture(params=LAYOUTS.values(), ids=list(LAYOUTS))
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    session = Session(request.param)
    yield session
    session.hang_up()


def numbered(pages: int) -> bytes:
    """Pages that differ."""
    return b"".join(struct.pack("=I", number) * (PAGE_SIZE // 4) for number in range(pages))


def test_the_layouts_are_those_of_the_structure() -> None:
    for version, size in ((30000, 24), (40101, 24), (40200, 32), (40201, 32)):
        layout = page_wire.wire_struct(version)
        assert layout.size == size
        assert layout.unpack(criu_header(version, 1, 2, 3, 4)) == (1, 2, 3, 4)


def test_a_whole_session(session: Session) -> None:
    data = numbered(3)
    session.send(OPEN2, dst_id=DST)
    assert session.receive(1) == b"\0"
    session.send(PARENT, dst_id=DST)
    assert session.receive(4) == bytes(4)
    session.send(ADD_F, 3, VADDR, DST, flags=PE_PRESENT)
    session.criu.sendall(data)
    session.send(ADD_F, 1000, VADDR + 3 * PAGE_SIZE, DST, flags=PE_LAZY)
    session.send(ADD_F, 2, VADDR + 2000 * PAGE_SIZE, DST, flags=PE_PARENT)
    session.send(OPEN2, dst_id=SHMEM)
    assert session.receive(1) == b"\0"
    session.send(ADD_F, 1, 0, SHMEM, flags=PE_PRESENT | PE_LAZY)
    session.criu.sendall(data[:PAGE_SIZE])
    session.send(CLOSE)
    assert session.receive(4) == bytes(4)
    assert session.end() == Totals(pages=4, extents=4)
    assert session.sink.extents == [
        (DST, VADDR, 3, PE_PRESENT, data),
        (DST, VADDR + 3 * PAGE_SIZE, 1000, PE_LAZY, b""),
        (DST, VADDR + 2000 * PAGE_SIZE, 2, PE_PARENT, b""),
        (SHMEM, 0, 1, PE_PRESENT | PE_LAZY, data[:PAGE_SIZE]),
    ]


def test_large_extents_come_in_pieces(session: Session) -> None:
    pages = 2 * PIECE_BYTES // PAGE_SIZE + 3
    data = numbered(pages)
    session.send(ADD_F, pages, VADDR, DST, flags=PE_PRESENT)
    for start in range(0, len(data), 100_001):  # never a whole page
        session.criu.sendall(data[start : start + 100_001])
    session.send(CLOSE)
    assert session.receive(4) == bytes(4)
    assert session.end() == Totals(pages=pages, extents=1)
    assert [len(extent[4]) for extent in session.sink.extents] == [PIECE_BYTES, PIECE_BYTES, 3 * PAGE_SIZE]
    expected = VADDR
    for dst_id, vaddr, count, flags, piece in session.sink.extents:
        assert (dst_id, vaddr, count * PAGE_SIZE, flags) == (DST, expected, len(piece), PE_PRESENT)
        expected += len(piece)
    assert b"".join(extent[4] for extent in session.sink.extents) == data


@pytest.mark.parametrize("code", [CLOSE, FORCE_CLOSE])
def test_closing_is_answered_only_when_all_is_safe(session: Session, code: int) -> None:
    asked, safe = threading.Event(), threading.Event()

    def make_safe() -> None:
        asked.set()
        assert safe.wait(30)

    session.before_close = make_safe
    session.send(code)
    assert asked.wait(30)
    session.criu.setblocking(False)
    with pytest.raises(BlockingIOError):
        session.receive(4)
    session.criu.settimeout(30)
    safe.set()
    assert session.receive(4) == bytes(4)
    assert session.end() == Totals()


def test_a_failure_before_closing_is_not_answered(session: Session) -> None:
    def fail() -> None:
        raise ImageError("not safe")

    session.before_close = fail
    session.send(CLOSE)
    assert session.receive(4) == b""
    with pytest.raises(ImageError, match="not safe"):
        session.end()


def test_a_failing_sink_ends_the_session(session: Session) -> None:
    session.sink.failure = ImageError("full")
    session.send(ADD_F, 1, VADDR, DST, flags=PE_LAZY)
    assert session.receive(4) == b""
    with pytest.raises(ImageError, match="full"):
        session.end()


@pytest.mark.parametrize("sent", [0, 1, 23, "extent", "page"])
def test_an_early_end_is_an_error(session: Session, sent: int | str) -> None:
    header = criu_header(session.version, PE_PRESENT << 16 | ADD_F, 2, VADDR, DST)
    if sent == "extent":
        session.criu.sendall(header)
    elif sent == "page":
        session.criu.sendall(header + bytes(2 * PAGE_SIZE - 1))
    elif isinstance(sent, int):
        session.criu.sendall(header[:sent])
    session.criu.shutdown(socket.SHUT_WR)
    with pytest.raises(ImageError, match="before it said CLOSE"):
        session.end()
    assert session.sink.extents == []


@pytest.mark.parametrize("code", [0, 1, 3, GET, 8, 0x1025, 0xFFFF])
def test_other_commands_are_errors(session: Session, code: int) -> None:
    session.send(code)
    with pytest.raises(ImageError, match="unknown command"):
        session.end()
