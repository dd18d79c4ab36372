"""Tests of migrate/memory/receiver.py: batches take effect in their order.

What is wrong with a batch is told.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from checkpoint.criu.page_server import PAGE_SIZE
from checkpoint.errors import ImageError
from checkpoint.host.worker import Worker
from migrate.memory import receiver
from migrate.memory.channels import PageChannels
from migrate.memory.encoding import EncodingChoice
from migrate.memory.receiver import PageReceiver
from migrate.wire import protocol
from migrate.wire.protocol import BatchesThere
from tests.unit.migrate.memory import scene as scenes
from tests.unit.migrate.memory.scene import GOOD, PATIENCE_S, Scene, content, pages_message, submit
from transport.errors import IncompleteFrame
from transport.framing import FrameStream
from transport.throttle import RateLimit

T = TypeVar("T")


def test_a_batch_that_never_comes_is_told(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 1, patience_s=0.2)
    channel = FrameStream(scene.streams[0])
    channel.send(protocol.encode(pages_message(0, GOOD)), [GOOD])
    with pytest.raises(ImageError, match="batch 1 of 2"):
        scene.receiver.wait(2)
    channel.close()
    scene.close()


def test_more_batches_than_were_announced_are_told(scene: Scene, channels: PageChannels) -> None:
    for number in range(2):
        submit(channels, 100 * number, content(1))
    scene.receiver.wait(2)
    with pytest.raises(ImageError, match="2 batches of pages came instead of 1"):
        scene.receiver.wait(1)


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
    for _ in range(50):  # the sender is not left blocked
        channel.send(protocol.encode(pages_message(taken, GOOD)), [GOOD * 100])
    assert len(scene.taken) == taken
    channel.close()
    scene.close()


class Turn(threading.Condition):
    """A condition that tells the limit of each wait that begins, and that something has changed."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        self.changed = threading.Semaphore(0)

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        if not predicate():
            self.begun.put(timeout)
        return super().wait_for(predicate, timeout)

    def notify_all(self) -> None:
        super().notify_all()
        self.changed.release()

    def wait_changed(self) -> None:
        assert self.changed.acquire(timeout=PATIENCE_S)


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Turn:
    """Return the condition on which the receiver of the test waits."""
    turn = Turn()
    monkeypatch.setattr(receiver, "Condition", lambda: turn)
    return turn


@pytest.fixture
def by_hand(tmp_path: Path) -> Iterator[tuple[Scene, list[FrameStream]]]:
    """Yield a receiver of two channels, and both channels, by which a test sends what it wants."""
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
    """The channels end so when the source is cut off. What came before is in place."""
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


def test_patience_begins_anew_with_each_batch(
    turn: Turn, by_hand: tuple[Scene, list[FrameStream]]
) -> None:
    scene, channels = by_hand
    channels[0].send(protocol.encode(pages_message(2, GOOD)), [GOOD])
    for number in range(2):
        assert turn.begun.get(timeout=PATIENCE_S) == PATIENCE_S
        channels[1].send(protocol.encode(pages_message(number, GOOD)), [GOOD])
    scene.receiver.wait(3)


def test_a_frame_that_breaks_off_is_told(tmp_path: Path) -> None:
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


class Lasting(Scene):
    """A receiver of two channels, in whose place others may come, by which a test sends."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, 2)
        self.closed: set[int] = set()

    def renew(self) -> tuple[int, tuple[int, ...]]:
        there = self.receiver.renew()
        self.streams += [scenes.Stream(self.path) for _ in range(2)]
        return there

    def send(self, channel: int, number: int, data: bytes = GOOD, **changed: Any) -> None:
        message = pages_message(number, data, **changed)
        FrameStream(self.streams[channel]).send(protocol.encode(message), [data])

    def end(self, channel: int) -> None:
        self.closed.add(channel)
        self.streams[channel].close()

    def break_off(self, channel: int) -> None:
        """End a channel within a frame."""
        self.streams[channel].write(b"\0\0\0\2\0\0\0\0{")
        self.end(channel)

    def close(self) -> None:
        for channel in set(range(len(self.streams))) - self.closed:
            self.end(channel)
        super().close()


@pytest.fixture
def lasting(turn: Turn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lasting]:
    monkeypatch.setattr(scenes, "PageReceiver", partial(PageReceiver, lasting=True))
    scene = Lasting(tmp_path)
    yield scene
    scene.close()


def test_a_lost_channel_is_no_failure_while_others_may_come(turn: Turn, lasting: Lasting) -> None:
    lasting.break_off(0)
    turn.wait_changed()
    assert lasting.receiver.check() == 0
    for told in (lasting.receiver.settle, lasting.receiver.check, lasting.receiver.renew):
        with pytest.raises(ImageError, match="a page channel was lost"):
            told()


def test_a_channel_that_breaks_when_no_other_may_come_is_a_failure(
    turn: Turn, lasting: Lasting
) -> None:
    lasting.receiver.settle()
    turn.wait_changed()
    lasting.break_off(0)
    turn.wait_changed()
    with pytest.raises(IncompleteFrame, match="before the end of a frame"):
        lasting.receiver.check()


def test_a_lost_channel_is_none_of_those_in_its_place(turn: Turn, lasting: Lasting) -> None:
    lasting.break_off(0)
    turn.wait_changed()
    assert lasting.renew() == (0, ())
    for stream in lasting.streams[:2]:
        stream.end()
    lasting.send(2, 0)
    lasting.receiver.wait(1)
    lasting.receiver.settle()
    assert lasting.receiver.check() == 1


def test_a_damaged_batch_is_a_failure_all_the_same(turn: Turn, lasting: Lasting) -> None:
    lasting.send(0, 0, digest="00000000")
    turn.wait_changed()
    for told in (lasting.receiver.check, lasting.receiver.renew, lasting.receiver.settle):
        with pytest.raises(ImageError, match="damaged"):
            told()


OLD: dict[str, Callable[[Lasting], object]] = {
    "a batch": lambda scene: scene.send(0, 0),
    "a damaged batch": lambda scene: scene.send(0, 0, digest="00000000"),
    "no batch": lambda scene: scene.send(0, 0, encoding="lzma"),
    "half a frame": lambda scene: scene.break_off(0),
    "its end": lambda scene: scene.end(0),
}


@pytest.mark.parametrize("bring", OLD.values(), ids=OLD)
def test_what_an_old_channel_brings_is_dropped(
    turn: Turn, lasting: Lasting, bring: Callable[[Lasting], object]
) -> None:
    lasting.renew()
    bring(lasting)
    turn.wait_changed()
    lasting.receiver.settle()
    assert lasting.receiver.check() == 0
    lasting.send(2, 0, b"new!" * (PAGE_SIZE // 4))
    lasting.receiver.wait(1)
    assert lasting.taken == [(False, 0x101, scenes.BASE, b"new!" * (PAGE_SIZE // 4))]


@pytest.mark.parametrize("before", [0, 1, 2])
def test_the_ends_of_old_channels_are_not_those_of_the_new_ones(
    turn: Turn, lasting: Lasting, before: int
) -> None:
    """As many channels end `before` the new ones come; the others end later."""
    for old in range(2):
        if old == before:
            lasting.renew()
        lasting.end(old)
        turn.wait_changed()
    if before == 2:
        lasting.renew()
    waiting = Worker("wait", partial(lasting.receiver.wait, 1))
    assert turn.begun.get(timeout=PATIENCE_S) == PATIENCE_S
    lasting.send(2, 0)
    waiting.result()


def test_a_batch_is_waited_for_without_limit_until_settled(turn: Turn, lasting: Lasting) -> None:
    lasting.send(0, 1)
    assert turn.begun.get(timeout=PATIENCE_S) is None
    lasting.receiver.settle()
    assert turn.begun.get(timeout=PATIENCE_S) == PATIENCE_S
    lasting.send(1, 0)
    lasting.receiver.wait(2)


def test_a_batch_is_missed_at_once_when_no_new_channel_can_still_bring_it(
    turn: Turn, lasting: Lasting
) -> None:
    lasting.send(0, 3)
    assert turn.begun.get(timeout=PATIENCE_S) is None
    assert lasting.renew() == (0, (3,))
    lasting.send(2, 1)
    assert turn.begun.get(timeout=PATIENCE_S) is None, "the other new channel may bring it"
    lasting.send(3, 2)
    turn.wait_changed()
    with pytest.raises(ImageError, match=r"batch 0 with pages never came$"):
        lasting.receiver.check()


class Way:
    """A Renewal whose channels are those of a scene."""

    renewed = 0

    def __init__(self, scene: Lasting) -> None:
        self._scene = scene
        self.answers: list[BatchesThere] = []

    def renew(self) -> tuple[list[scenes.Stream], BatchesThere]:
        in_place, beyond = self._scene.renew()
        self.answers.append(BatchesThere(in_place=in_place, beyond=beyond))
        return self._scene.streams[-2:], self.answers[-1]


class Stuck:
    """A channel that may get the first batch of all, holds it until `gate` opens, and breaks."""

    def __init__(self, stream: scenes.Stream, first: threading.Lock, gate: threading.Event) -> None:
        self._stream, self._first, self._gate = stream, first, gate
        self.read_into, self.close = stream.read_into, stream.close

    def write(self, data: bytes | memoryview) -> None:
        if self._first.acquire(blocking=False):
            assert self._gate.wait(PATIENCE_S)
            raise IncompleteFrame("the link broke")
        self._stream.write(data)


def test_a_batch_that_waits_for_a_lost_one_is_not_sent_again(turn: Turn, lasting: Lasting) -> None:
    first, gate, way = threading.Lock(), threading.Event(), Way(lasting)
    streams = [Stuck(stream, first, gate) for stream in lasting.streams]
    channels = PageChannels(streams, EncodingChoice(["raw"]), RateLimit(None), way)
    lasting.closed = set(range(4))
    a, b, c = (bytes([byte]) * PAGE_SIZE for byte in b"abc")
    submit(channels, 0, a)
    submit(channels, 1, b)
    assert turn.begun.get(timeout=PATIENCE_S) is None, "the second batch waits for the first"
    gate.set()
    channels.drain()
    assert way.answers == [BatchesThere(in_place=0, beyond=(1,))]
    assert [extent.vaddr for extent in channels.take_lost()] == [scenes.BASE]
    submit(channels, 0, c)
    channels.drain()
    lasting.receiver.wait(3)
    assert lasting.taken == [
        (False, 0x101, scenes.BASE + PAGE_SIZE, b),
        (False, 0x101, scenes.BASE, c),
    ]
    assert 2 * PAGE_SIZE < channels.sent_bytes < 3 * PAGE_SIZE, "of what was lost nothing is sent"
    channels.close()
