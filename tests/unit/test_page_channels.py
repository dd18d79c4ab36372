"""migrate/memory/channels.py to migrate/memory/receiver.py, over real pipes and the real plug, but without SSH."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from checkpoint.criu.page_server import PAGE_SIZE, PE_PRESENT
from checkpoint.errors import ImageError
from migrate.agent.plug_command import plug_command
from migrate.errors import AgentGone
from migrate.memory import batches, encoding
from migrate.memory.batches import Extent
from migrate.memory.channels import MAX_CHANNELS, PageChannels, channels_for
from migrate.memory.encoding import EncodingChoice
from migrate.memory.receiver import PageReceiver
from migrate.wire import protocol
from migrate.wire.values import PageExtent
from transport.errors import IncompleteFrame
from transport.framing import ByteStream, Descriptors, FrameStream
from transport.throttle import RateLimit

BASE = 0x7F00_0000_0000
PATIENCE_S = 30.0
T = TypeVar("T")


class Stream:
    """What an SSH channel is to us: a plug on the other host whose stdin we write to."""

    def __init__(self, path: Path) -> None:
        self._plug = subprocess.Popen(
            ["sh", "-c", plug_command(path, "pages")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._plug.stdout is not None
        assert self._plug.stdout.read(1) == b"+", "it says that it is plugged in"
        self._plug.stdout.close()
        assert self._plug.stdin is not None
        self._pipe = Descriptors(
            os.dup(self._plug.stdin.fileno()), os.dup(self._plug.stdin.fileno())
        )
        self._plug.stdin.close()

    def read_into(self, view: memoryview) -> int:
        raise NotImplementedError

    def write(self, data: bytes | memoryview) -> None:
        self._pipe.write(data)

    def close(self) -> None:
        self._pipe.close()

    def end(self) -> None:
        """Once the receiver is gone the plug is, too, and says that it was told of no end."""
        assert self._plug.wait(10) == 1


class Scene:
    """A receiver that keeps what it is given, and streams to it."""

    def __init__(self, directory: Path, channels: int, patience_s: float = PATIENCE_S) -> None:
        self.taken: list[tuple[bool, int, int, bytes]] = []
        self.path = directory / "pages.sock"
        self.receiver = PageReceiver(self.path, channels, self._put, patience_s)
        self.receiver.__enter__()
        self.streams = [Stream(self.path) for _ in range(channels)]
        while len(self.receiver._plugs) < channels:
            time.sleep(0.001)

    def _put(self, message: protocol.Pages, extents: Iterator[Extent]) -> None:
        self.taken += [
            (message.into_images, dst_id, vaddr, bytes(data))
            for dst_id, vaddr, _, _, data in extents
        ]

    def close(self) -> None:
        self.receiver.__exit__()
        for stream in self.streams:
            stream.end()
        assert not self.path.exists()


@pytest.fixture(params=[1, 3])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path, request.param)
    yield scene
    scene.close()


@pytest.fixture
def channels(scene: Scene) -> Iterator[PageChannels]:
    channels = PageChannels(scene.streams, EncodingChoice(encoding.AVAILABLE), RateLimit(None))
    yield channels
    channels.close()


def submit(channels: PageChannels, page: int, content: bytes, *, into_images: bool = False) -> None:
    buffer = channels.buffer()
    buffer[: len(content)] = content
    extent = PageExtent(
        0x101, BASE + page * PAGE_SIZE, len(content) // PAGE_SIZE, PE_PRESENT, False
    )
    channels.submit([extent], buffer, len(content), into_images=into_images)


def content(number: int) -> bytes:
    """Half of it compresses, half does not; of changing size."""
    return (bytes([number % 256]) * PAGE_SIZE + os.urandom(PAGE_SIZE)) * (1 + number % 40)


def test_all_batches_arrive_in_order(scene: Scene, channels: PageChannels) -> None:
    sent = [content(number) for number in range(200)]
    for number, data in enumerate(sent):
        submit(channels, 100 * number, data, into_images=number % 2 == 1)
    channels.drain()
    scene.receiver.wait(len(sent))
    assert scene.taken == [
        (n % 2 == 1, 0x101, BASE + 100 * n * PAGE_SIZE, data) for n, data in enumerate(sent)
    ]
    assert channels.count == len(sent)
    assert 0 < channels.sent_bytes < sum(map(len, sent)) + 1000 * len(sent)


def test_the_newest_content_of_a_page_is_the_last_taken(
    scene: Scene, channels: PageChannels
) -> None:
    for number in range(300):
        submit(channels, 0, bytes([number % 256]) * PAGE_SIZE * (1 + 200 * (number % 2)))
    channels.drain()
    scene.receiver.wait(300)
    assert scene.taken[-1][3][:1] == bytes([299 % 256])


def test_waiting_for_one_that_never_comes(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 1, patience_s=0.2)
    channel = FrameStream(scene.streams[0])
    channel.send(protocol.encode(pages_message(0, GOOD)), [GOOD])
    with pytest.raises(ImageError, match="batch 1 of 2"):
        scene.receiver.wait(2)
    channel.close()
    scene.close()


def test_more_came_than_were_announced(scene: Scene, channels: PageChannels) -> None:
    for number in range(2):
        submit(channels, 100 * number, content(1))
    scene.receiver.wait(2)
    with pytest.raises(ImageError, match="2 batches of pages came instead of 1"):
        scene.receiver.wait(1)


def the_producer_is_told(channels: PageChannels) -> None:
    """Whether it submits or drains; and closing ends."""
    with pytest.raises(AgentGone):
        for number in range(100):
            submit(channels, 100 * number, content(number))
    with pytest.raises(AgentGone):
        channels.drain()
    channels.close()


def test_a_peer_that_vanished() -> None:
    """Whoever submits is told, and neither it nor who drains or closes is left waiting."""
    ours, theirs = socket.socketpair()
    fd = ours.detach()
    channels = PageChannels([Broken(Descriptors(fd, fd))], EncodingChoice(["raw"]), RateLimit(None))
    submit(channels, 0, content(1))
    channels.drain()
    theirs.close()
    the_producer_is_told(channels)


class Broken:
    """A stream that tells a broken pipe as an SSH channel does."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    def read_into(self, view: memoryview) -> int:
        return self._stream.read_into(view)

    def write(self, data: bytes | memoryview) -> None:
        try:
            self._stream.write(data)
        except OSError as error:
            raise IncompleteFrame(str(error)) from error

    def close(self) -> None:
        self._stream.close()


def pages_message(number: int, data: bytes, **changed: Any) -> protocol.Pages:
    extents = (PageExtent(0x101, BASE, len(data) // PAGE_SIZE, PE_PRESENT, False),)
    fields = {
        "extents": extents,
        "encoding": "raw",
        "digest": batches.digest_of(data),
        "into_images": False,
        "forget": (),
    }
    return protocol.Pages(number=number, **{**fields, **changed})


GOOD = b"a" * PAGE_SIZE


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([(pages_message(0, GOOD), b"b" + GOOD[1:])], "damaged"),
        ([(pages_message(0, GOOD), GOOD[1:])], "beside the 4096"),
        ([(pages_message(0, GOOD, encoding="lzma"), GOOD)], "lzma"),
        (
            [(pages_message(0, GOOD), GOOD), (pages_message(0, GOOD), GOOD)],
            "batch 0 with pages came twice",
        ),
        ([(pages_message(1, GOOD), GOOD)], r"batch 0( of 9)? with pages never came"),
        ([(protocol.Ping(), b"")], "not allowed"),
    ],
    ids=["damaged", "short", "unknown encoding", "twice", "lost", "no pages"],
)
def test_what_is_wrong_is_told_and_nothing_after_it_is_taken(
    tmp_path: Path, sent: list[tuple[protocol.Message, bytes]], said: str
) -> None:
    scene = Scene(tmp_path, 1, patience_s=0.2)
    channel = FrameStream(scene.streams[0])
    for message, payload in sent:
        channel.send(protocol.encode(message), [payload])
    with pytest.raises((ImageError, protocol.ProtocolError), match=said):
        scene.receiver.wait(9)
    taken = len(scene.taken)
    for _ in range(50):  # nobody is left blocked
        channel.send(protocol.encode(pages_message(taken, GOOD)), [GOOD * 100])
    assert len(scene.taken) == taken
    channel.close()
    scene.close()


@pytest.fixture
def by_hand(tmp_path: Path) -> Iterator[tuple[Scene, list[FrameStream]]]:
    """A receiver of two channels, and both, to send what a test wants in the order it wants."""
    scene = Scene(tmp_path, 2)
    channels = [FrameStream(stream) for stream in scene.streams]
    yield scene, channels
    for channel in channels:
        channel.close()
    scene.close()


def test_a_lost_batch_is_missed_at_once_when_no_channel_can_still_bring_it(
    by_hand: tuple[Scene, list[FrameStream]],
) -> None:
    scene, channels = by_hand
    channels[0].send(protocol.encode(pages_message(0, GOOD)), [GOOD])
    scene.receiver.wait(1)
    for number, channel in enumerate(channels, start=2):
        channel.send(protocol.encode(pages_message(number, GOOD)), [GOOD])
    started = time.monotonic()
    with pytest.raises(ImageError, match=r"batch 1 with pages never came$"):
        scene.receiver.wait(4)
    assert time.monotonic() - started < PATIENCE_S / 2
    assert len(scene.taken) == 1


def test_a_batch_is_missed_at_once_when_all_channels_have_ended(tmp_path: Path) -> None:
    """... as they do when the source is cut off; what came before is there."""
    scene = Scene(tmp_path, 2)
    channels = [FrameStream(stream) for stream in scene.streams]
    channels[0].send(protocol.encode(pages_message(0, GOOD)), [GOOD])
    channels[0].close()
    scene.receiver.wait(1)
    closing = threading.Timer(0.3, channels[1].close)
    started = time.monotonic()
    closing.start()
    with pytest.raises(
        ImageError, match="batch 1 of 2 with pages never came: their channels ended"
    ):
        scene.receiver.wait(2)
    assert 0.2 < time.monotonic() - started < PATIENCE_S / 2
    scene.close()


def test_a_channel_that_is_late_is_waited_for(by_hand: tuple[Scene, list[FrameStream]]) -> None:
    scene, channels = by_hand
    channels[0].send(protocol.encode(pages_message(1, GOOD)), [GOOD])
    time.sleep(0.2)
    assert scene.taken == []
    channels[1].send(protocol.encode(pages_message(0, GOOD)), [GOOD])
    scene.receiver.wait(2)


class Turn(threading.Condition):
    """One that counts how often somebody begins to wait with all patience."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        assert timeout == PATIENCE_S
        self.begun += not predicate()
        return super().wait_for(predicate, timeout)


def test_patience_begins_anew_with_each_batch(
    by_hand: tuple[Scene, list[FrameStream]],
) -> None:
    scene, channels = by_hand
    scene.receiver._turn = turn = Turn()
    channels[0].send(protocol.encode(pages_message(2, GOOD)), [GOOD])
    for number in range(2):
        deadline = time.monotonic() + 10
        while turn.begun <= number:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        channels[1].send(protocol.encode(pages_message(number, GOOD)), [GOOD])
    scene.receiver.wait(3)


def test_a_frame_that_breaks_off(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 1)
    scene.streams[0].write(b"\0\0\0\2\0\0\0\0{")
    scene.streams[0].close()
    with pytest.raises(Exception, match="before the end of a frame"):
        scene.receiver.wait(1)
    scene.close()


def test_no_page_is_put_after_the_end(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 1)
    channel = FrameStream(scene.streams[0])
    scene.receiver.__exit__()
    with pytest.raises(ImageError, match="closed"):
        scene.receiver.wait(1)
    with contextlib.suppress(BrokenPipeError):
        channel.send(protocol.encode(pages_message(0, GOOD)), [GOOD])
    scene.streams[0].end()
    assert scene.taken == []
    channel.close()


def test_a_limited_rate_is_taken_from_the_limit() -> None:
    ours, theirs = socket.socketpair()
    taken: list[int] = []

    class Limit(RateLimit):
        def take(self, size: int) -> None:
            taken.append(size)

    with ours, theirs:
        stream: ByteStream = Descriptors(os.dup(ours.fileno()), os.dup(ours.fileno()))
        channels = PageChannels([stream], EncodingChoice(["raw"]), Limit(None))
        drained = threading.Thread(
            target=lambda: theirs.recv(1 << 22, socket.MSG_WAITALL), daemon=True
        )
        drained.start()
        submit(channels, 0, GOOD * 10)
        channels.drain()
        assert sum(taken) + 8 == channels.sent_bytes > 10 * PAGE_SIZE
        channels.close()
        ours.close()
        drained.join(30)  # before its socket is closed


@pytest.mark.parametrize(
    ("round_trip_ms", "count"),
    [(0, 2), (0.5, 2), (5.5, 3), (11, 4), (40, MAX_CHANNELS), (500, MAX_CHANNELS)],
)
def test_channels_to_fill_a_link(round_trip_ms: float, count: int) -> None:
    assert channels_for(round_trip_ms / 1000) == count


@pytest.mark.parametrize(
    "error", [EOFError(), OSError(32, "Broken pipe"), RuntimeError("a defect")]
)
def test_whatever_a_channel_raises_reaches_the_producer(error: Exception) -> None:
    """paramiko raises EOFError when the connection is gone; nobody may wait for a thread that ended."""

    class Raising:
        def read_into(self, view: memoryview) -> int:
            return 0

        def write(self, data: bytes | memoryview) -> None:
            raise error

        def close(self) -> None: ...

    channels = PageChannels([Raising(), Raising()], EncodingChoice(["raw"]), RateLimit(None))
    the_producer_is_told(channels)


class Interrupted(Exception):
    """What the signal handler of a move raises, anywhere in the main thread."""


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise Interrupted in the block, once, and end the block by it."""

    def handler(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    with contextlib.suppress(Interrupted):
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("seed", range(8))
def test_it_ends_wherever_its_producer_was_interrupted(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    for _ in range(40):
        fds = [os.open(os.devnull, os.O_RDWR) for _ in range(2)]
        streams = [Descriptors(fd, fd) for fd in fds]
        channels = PageChannels(streams, EncodingChoice(["raw"]), RateLimit(None))
        with interrupted_after(chance.uniform(0.0002, 0.004)):
            while True:
                channels.submit([PageExtent(0x101, BASE, 0, 0, False)], channels.buffer(), 0)
                channels.drain()
        end = threading.Thread(target=channels.close, daemon=True)
        end.start()
        end.join(PATIENCE_S)
        assert not end.is_alive(), "its threads wait for each other"
