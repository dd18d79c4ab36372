"""Tests of migrate/memory/channels.py: page channels over real pipes and the real plug."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import socket
import threading
from collections.abc import Callable

import pytest

from checkpoint.criu.page_server import PAGE_SIZE
from migrate.memory.channels import MAX_CHANNELS, PageChannels, channels_for
from migrate.memory.encoding import EncodingChoice
from migrate.wire.failures import AgentGone
from migrate.wire.values import PageExtent
from tests.unit.migrate.memory.scene import BASE, GOOD, PATIENCE_S, Scene, content, submit
from transport.errors import IncompleteFrame
from transport.framing import ByteStream, Descriptors
from transport.throttle import RateLimit


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


def check_producer_is_told(channels: PageChannels) -> None:
    """Check that submitting and draining raise AgentGone, and that closing ends."""
    with pytest.raises(AgentGone):
        for number in range(100):
            submit(channels, 100 * number, content(number))
    with pytest.raises(AgentGone):
        channels.drain()
    channels.close()


def test_the_producer_is_told_of_a_peer_that_vanished() -> None:
    """No call of the producer is left waiting."""
    ours, theirs = socket.socketpair()
    fd = ours.detach()
    channels = PageChannels([Broken(Descriptors(fd, fd))], EncodingChoice(["raw"]), RateLimit(None))
    submit(channels, 0, content(1))
    channels.drain()
    theirs.close()
    check_producer_is_told(channels)


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


def test_all_bytes_are_taken_from_the_rate_limit() -> None:
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
        # The thread must have ended before its socket is closed.
        drained.join(30)


@pytest.mark.parametrize(
    ("round_trip_ms", "count"),
    [(0, 2), (0.5, 2), (5.5, 3), (11, 4), (40, MAX_CHANNELS), (500, MAX_CHANNELS)],
)
def test_a_longer_link_gets_more_channels(round_trip_ms: float, count: int) -> None:
    assert channels_for(round_trip_ms / 1000) == count


@pytest.mark.parametrize(
    "error", [EOFError(), OSError(32, "Broken pipe"), RuntimeError("a defect")]
)
def test_whatever_a_channel_raises_reaches_the_producer(error: Exception) -> None:
    """paramiko raises EOFError when the connection is gone.

    No call may wait for a thread that has ended.
    """

    class Raising:
        def read_into(self, view: memoryview) -> int:
            return 0

        def write(self, data: bytes | memoryview) -> None:
            raise error

        def close(self) -> None: ...

    channels = PageChannels([Raising(), Raising()], EncodingChoice(["raw"]), RateLimit(None))
    check_producer_is_told(channels)


class Interrupted(Exception):
    """The exception that the signal handler of a migration raises, anywhere in the main thread."""


def run_until_interrupted(work: Callable[[], None], seconds: float) -> None:
    """Call a function again and again, until a signal after some seconds raises Interrupted.

    No garbage is collected meanwhile: an exception that a signal handler raises in a callback of
    the collector goes no further, and the function would be called for ever.
    """

    def handler(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    gc.disable()
    with contextlib.suppress(Interrupted):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while True:
            work()
    gc.enable()
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("seed", range(8))
def test_the_channels_end_wherever_the_producer_was_interrupted(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    for _ in range(40):
        fds = [os.open(os.devnull, os.O_RDWR) for _ in range(2)]
        streams = [Descriptors(fd, fd) for fd in fds]
        channels = PageChannels(streams, EncodingChoice(["raw"]), RateLimit(None))

        def send(channels: PageChannels = channels) -> None:
            channels.submit([PageExtent(0x101, BASE, 0, 0, False)], channels.buffer(), 0)
            channels.drain()

        run_until_interrupted(send, chance.uniform(0.0002, 0.004))
        end = threading.Thread(target=channels.close, daemon=True)
        end.start()
        end.join(PATIENCE_S)
        assert not end.is_alive(), "its threads wait for each other"
