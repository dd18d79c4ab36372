"""Tests of migrate/memory/receiver.py: batches take effect in their order.

What is wrong with a batch is told.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from checkpoint.errors import ImageError
from migrate.memory import receiver
from migrate.memory.channels import PageChannels
from migrate.wire import protocol
from tests.unit.migrate.memory.scene import (
    GOOD,
    PATIENCE_S,
    Scene,
    content,
    pages_message,
    submit,
)
from transport.framing import FrameStream

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
    """A condition that counts how often a wait with all patience begins."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        assert timeout == PATIENCE_S
        self.begun += not predicate()
        return super().wait_for(predicate, timeout)


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
        deadline = time.monotonic() + 10
        while turn.begun <= number:
            assert time.monotonic() < deadline
            time.sleep(0.001)
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
