"""Tests of transport/framing.py: frames survive any cutting of their stream.

A stream that ends or lies is told apart from one that is done.
"""

import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport import framing
from transport.errors import EndOfStream, FrameInvalid, IncompleteFrame
from transport.framing import PREFIX, Descriptors, FrameStream


class Memory:
    """A ByteStream in memory, of which a read returns at most as many bytes as `sizes` say."""

    def __init__(self, data: bytes = b"", sizes: tuple[int, ...] = ()) -> None:
        self.data = bytearray(data)
        self._sizes = list(sizes)
        self.closed = False

    def read_into(self, view: memoryview) -> int:
        limit = min(len(view), self._sizes.pop(0)) if self._sizes else len(view)
        piece = bytes(self.data[:limit])
        view[: len(piece)] = piece
        del self.data[:limit]
        return len(piece)

    def write(self, data: bytes | memoryview) -> None:
        self.data += data

    def close(self) -> None:
        self.closed = True


@given(
    frames=st.lists(
        st.tuples(st.binary(max_size=200), st.lists(st.binary(max_size=200), max_size=4)),
        max_size=5,
    ),
    sizes=st.lists(st.integers(1, 50), max_size=100),
)
def test_frames_arrive_as_sent_however_they_are_cut(
    frames: list[tuple[bytes, list[bytes]]], sizes: list[int]
) -> None:
    memory = Memory(sizes=tuple(sizes))
    stream = FrameStream(memory)
    for header, parts in frames:
        stream.send(header, parts)
    assert stream.sent_bytes == len(memory.data)
    for header, parts in frames:
        assert [*map(bytes, stream.receive())] == [header, b"".join(parts)]
    with pytest.raises(EndOfStream):
        stream.receive()


def test_a_memoryview_is_a_payload() -> None:
    stream = FrameStream(Memory())
    stream.send(b"h", [memoryview(b"abc")[1:], b"d"])
    assert [*map(bytes, stream.receive())] == [b"h", b"bcd"]


def test_only_an_end_at_a_boundary_is_an_end() -> None:
    whole = Memory()
    FrameStream(whole).send(b"header", [b"payload"])
    data = bytes(whole.data)
    for length in range(len(data)):
        expected = EndOfStream if length == 0 else IncompleteFrame
        with pytest.raises(expected) as caught:
            FrameStream(Memory(data[:length])).receive()
        assert type(caught.value) is expected, f"cut after {length} bytes"


@pytest.mark.parametrize(
    ("header_size", "payload_size"),
    [(framing.MAX_HEADER + 1, 0), (0, framing.MAX_PAYLOAD + 1), (0xFFFFFFFF, 0xFFFFFFFF)],
)
def test_an_announcement_over_the_bound_is_refused_before_it_is_read(
    header_size: int, payload_size: int
) -> None:
    memory = Memory(PREFIX.pack(header_size, payload_size) + b"rest")
    with pytest.raises(FrameInvalid):
        FrameStream(memory).receive()
    assert memory.data == b"rest"


def test_the_bounds_themselves_are_allowed() -> None:
    stream = FrameStream(Memory())
    header, payload = bytes(framing.MAX_HEADER), bytes(framing.MAX_PAYLOAD)
    stream.send(header, [payload])
    assert [*map(bytes, stream.receive())] == [header, payload]


@pytest.mark.parametrize(
    ("header", "parts"),
    [
        (bytes(framing.MAX_HEADER + 1), ()),
        (b"", (bytes(framing.MAX_PAYLOAD + 1),)),
        (b"", (bytes(framing.MAX_PAYLOAD), b"x")),
    ],
    ids=["header", "payload", "sum of parts"],
)
def test_sending_over_the_bound_is_refused_and_sends_nothing(
    header: bytes, parts: tuple[bytes, ...]
) -> None:
    memory = Memory()
    stream = FrameStream(memory)
    with pytest.raises(FrameInvalid):
        stream.send(header, parts)
    assert not memory.data
    assert stream.sent_bytes == 0


def test_to_close_the_frames_closes_their_stream() -> None:
    memory = Memory()
    FrameStream(memory).close()
    assert memory.closed


class Interrupting(Memory):
    """A stream that raises in the middle of a transfer, as a signal handler would."""

    def __init__(self, data: bytes = b"", *, calls: int) -> None:
        super().__init__(data, sizes=(1,) * 100)
        self._calls = calls

    def read_into(self, view: memoryview) -> int:
        self._count()
        return super().read_into(view)

    def write(self, data: bytes | memoryview) -> None:
        self._count()
        super().write(data)

    def _count(self) -> None:
        self._calls -= 1
        if self._calls == 0:
            raise KeyboardInterrupt


def test_a_stream_interrupted_inside_a_frame_sends_no_further_one() -> None:
    stream = FrameStream(Interrupting(calls=2))
    with pytest.raises(KeyboardInterrupt):
        stream.send(b"header", [b"payload"])
    with pytest.raises(IncompleteFrame):
        stream.send(b"abort")


@pytest.mark.parametrize("calls", [1, 2, 8, 9, 12])
def test_a_stream_interrupted_inside_a_frame_reads_no_further_one(calls: int) -> None:
    whole = Memory()
    FrameStream(whole).send(b"header", [b"payload"])
    stream = FrameStream(Interrupting(bytes(whole.data), calls=calls))
    with pytest.raises(KeyboardInterrupt):
        stream.receive()
    if calls == 1:  # no byte of the frame was read yet
        assert [*map(bytes, stream.receive())] == [b"header", b"payload"]
    else:
        with pytest.raises(IncompleteFrame):
            stream.receive()


#: How long a peer may be silent, and so long that only a failure waits for it.
SILENCE_S, TIMEOUT_S = 0.02, 20.0


class Peer:
    """A peer that may be silent for a time, and sends bytes of a frame."""

    def __init__(self, silence_s: float | None) -> None:
        ours, self.end = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(TIMEOUT_S), 0))
        number = ours.detach()
        self.frames = FrameStream(Descriptors(number, number, silence_s))

    def close(self) -> None:
        self.frames.close()
        self.end.close()


@pytest.fixture(params=[SILENCE_S])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    found = Peer(request.param)
    yield found
    found.close()


FRAME = PREFIX.pack(6, 7) + b"headerpayload"


@pytest.mark.parametrize("size", [0, 1, PREFIX.size, len(FRAME) - 1])
def test_a_peer_that_is_silent_for_too_long_is_lost(peer: Peer, size: int) -> None:
    """Within a frame, and between two."""
    peer.end.send(FRAME[:size])
    with pytest.raises(IncompleteFrame, match=r"nothing came from the peer for 0\.02 s"):
        peer.frames.receive()


def test_what_came_before_the_silence_is_received(peer: Peer) -> None:
    peer.end.send(FRAME * 2)
    for _ in range(2):
        assert [*map(bytes, peer.frames.receive())] == [b"header", b"payload"]
    with pytest.raises(IncompleteFrame):
        peer.frames.receive()


@pytest.mark.parametrize("peer", [TIMEOUT_S], indirect=True)
def test_each_byte_ends_the_silence(peer: Peer) -> None:
    """What is bounded is the silence, and not the time that a frame takes."""

    def send() -> None:
        for byte in FRAME:
            peer.end.send(bytes([byte]))

    sending = threading.Thread(target=send)
    sending.start()
    assert [*map(bytes, peer.frames.receive())] == [b"header", b"payload"]
    sending.join()


@pytest.mark.parametrize("peer", [TIMEOUT_S, None], indirect=True)
def test_the_end_of_the_stream_is_no_silence(peer: Peer) -> None:
    peer.end.shutdown(socket.SHUT_WR)
    with pytest.raises(EndOfStream):
        peer.frames.receive()


def test_a_stream_that_was_hung_up_has_ended() -> None:
    """A peer that is silent for ever does not keep its reader."""
    reader, writer = os.pipe()
    stream = Descriptors(reader, os.dup(writer), TIMEOUT_S)
    stream.hang_up()
    assert stream.read_into(memoryview(bytearray(1))) == 0
    stream.close()
    os.close(writer)
