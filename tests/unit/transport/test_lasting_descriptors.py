"""Tests of transport/lasting_descriptors.py, over pipes and sockets: each byte comes once."""

from __future__ import annotations

import fcntl
import os
import random
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from checkpoint.host.ready import ready
from checkpoint.host.worker import Worker
from tests.rig import until
from transport.errors import IncompleteFrame
from transport.framing import ByteStream, Descriptors
from transport.kept import COUNT
from transport.lasting_descriptors import LastingDescriptors

T = TypeVar("T")
#: A limit, in seconds, that only a failure reaches, and a silence that is waited for.
LIMIT_S, SILENCE_S = 20.0, 0.02
GREETING = b"hello"
#: More than a pipe or a socket holds, and the size of a small pipe: two pages.
MUCH, SMALL = bytes(range(256)) * 4096, 8192


class Channel:
    """What a stream reads from and writes to (`fds`, which it owns), and the peer's end of it."""

    def __init__(self, kind: str) -> None:
        if kind == "socket":
            ours, theirs = socket.socketpair()
            self.fds, ends = (theirs.detach(),) * 2, (ours.detach(),) * 2
        else:
            (reader, say), (hear, writer) = os.pipe(), os.pipe()
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SMALL)
            self.fds, ends = (reader, writer), (hear, say)
        self._end, self._is_lost = Descriptors(*ends, LIMIT_S), False
        self.say = self._end.write

    def hear(self, size: int) -> bytes:
        return read(self._end, size)

    def hear_some(self) -> bytes:
        """Return what has come; nothing after a moment in which nothing comes."""
        return os.read(fd, SMALL) if ready(fd := self._end.reader, timeout_s=0.001) else b""

    def hear_greeting(self) -> int:
        """Hear the greeting of an exchange, and return how many bytes came at the stream."""
        assert self.hear(len(GREETING)) == GREETING
        return int(COUNT.unpack(self.hear(COUNT.size))[0])

    def is_full(self) -> bool:
        """Return whether a write to the channel has to wait."""
        poll = select.poll()
        poll.register(self.fds[1], select.POLLOUT)
        return not poll.poll(0)

    def lose(self) -> None:
        """Close the peer's end, with what has come there and was not heard."""
        if not self._is_lost:
            self._end.close()
        self._is_lost = True


class Scene:
    """Channels of one kind, whose peers end with the test."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.channels: list[Channel] = []
        self.streams: list[LastingDescriptors] = []

    def channel(self) -> Channel:
        self.channels.append(channel := Channel(self._kind))
        return channel

    def stream(
        self, wait: Callable[[int], bool] | None, silence_s: float | None = LIMIT_S
    ) -> LastingDescriptors:
        """Return a stream over a new channel, which lasts if there is a `wait`."""
        self.streams.append(stream := LastingDescriptors(*self.channel().fds, silence_s))
        if wait is not None:
            stream.last(wait)
        return stream

    def exchanging(self, stream: LastingDescriptors, position: int) -> tuple[Channel, Worker[None]]:
        """Have a stream go on over a new channel, in a thread."""
        channel = self.channel()
        exchange = partial(stream.exchange, *channel.fds, position, GREETING)
        return channel, Worker("exchange", exchange)

    def exchange(self, stream: LastingDescriptors, position: int) -> Channel:
        channel, exchange = self.exchanging(stream, position)
        in_time(exchange)
        return channel


@pytest.fixture(params=["pipes", "socket"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    before = open_fds()
    scene = Scene(request.param)
    yield scene
    for stream in scene.streams:
        stream.close()
    for channel in scene.channels:
        channel.lose()
    assert open_fds() == before


def open_fds() -> dict[str, str]:
    """Return {descriptor: what it leads to} of this process."""
    paths = Path("/proc/self/fd").iterdir()  # which is no symlink any more in the end
    return {path.name: str(path.readlink()) for path in paths if path.is_symlink()}


def comes(renewed: int) -> bool:
    return bool(ready(renewed, timeout_s=LIMIT_S))


def read(stream: ByteStream, size: int) -> bytes:
    """Return the next so many bytes, or less at the end of the stream."""
    found = b""
    while len(found) < size:
        data = bytearray(size - len(found))
        if not (got := stream.read_into(memoryview(data))):
            break
        found += data[:got]
    return found


def in_time(worker: Worker[T]) -> T:
    assert worker.wait(LIMIT_S), "it waits for ever"
    return worker.result()


class Reader:
    """A thread that reads a stream to its end. `came` is what it has read."""

    def __init__(self, stream: LastingDescriptors) -> None:
        self.came, self._changed = b"", threading.Condition()
        self._stream, self._thread_id = stream, 0
        self.worker = Worker("reader", self._read)

    def _read(self) -> bytes:
        self._thread_id = threading.get_native_id()
        while piece := read(self._stream, 1):
            with self._changed:
                self.came += piece
                self._changed.notify()
        return self.came

    def follow(self, channel: Channel, byte: bytes) -> None:
        """Have the thread read a byte of a channel, where all that was said was read."""
        with self._changed:
            count = len(self.came)
            channel.say(byte)
            assert self._changed.wait_for(lambda: len(self.came) > count, LIMIT_S)

    def wait_idle(self) -> None:
        """Wait until the thread waits for the next byte."""
        where = Path(f"/proc/self/task/{self._thread_id}/wchan")
        until(lambda: "poll" in where.read_text(), "the reader to wait")


@pytest.mark.parametrize("heard", [0, 10, SMALL])
@pytest.mark.parametrize("silence_s", [None, LIMIT_S])
def test_a_write_that_nobody_takes_ends_with_the_exchange(
    scene: Scene, heard: int, silence_s: float | None
) -> None:
    stream = scene.stream(comes, silence_s)
    writer = Worker("writer", lambda: stream.write(MUCH))
    assert scene.channels[0].hear(heard) == MUCH[:heard]
    until(scene.channels[0].is_full, "the writer to wait")
    channel, exchange = scene.exchanging(stream, heard)
    assert channel.hear_greeting() == 0
    assert channel.hear(len(MUCH) - heard) == MUCH[heard:]
    in_time(writer)
    in_time(exchange)
    stream.write(b"end")
    assert channel.hear(3) == b"end"


def test_an_exchange_that_nobody_takes_ends_with_the_next(scene: Scene) -> None:
    stream = scene.stream(comes)
    scene.channels[0].lose()
    stream.write(MUCH)
    channel, first = scene.exchanging(stream, 0)
    until(channel.is_full, "the first exchange to wait")
    channel, second = scene.exchanging(stream, 5)
    in_time(first)
    assert channel.hear_greeting() == 0
    assert channel.hear(len(MUCH) - 5) == MUCH[5:]
    in_time(second)


def test_a_read_goes_on_with_the_new_pair_although_the_old_one_is_open(scene: Scene) -> None:
    stream = scene.stream(comes)
    reader = Reader(stream)
    reader.follow(scene.channels[0], b"0")
    for byte in (b"1", b"2", b"3"):
        reader.wait_idle()
        channel = scene.exchange(stream, 0)
        assert channel.hear_greeting() == len(reader.came)
        reader.follow(channel, byte)
    stream.settle()
    channel.lose()
    assert in_time(reader.worker) == b"0123"


def test_the_peer_hears_how_many_bytes_were_read(scene: Scene) -> None:
    """What came by the old pair and was not read is sent again by the new one."""
    stream = scene.stream(comes)
    scene.channels[0].say(b"012345")
    assert read(stream, 4) == b"0123"
    channel = scene.exchange(stream, 0)
    assert channel.hear_greeting() == 4
    channel.say(b"456")
    assert read(stream, 3) == b"456"


@pytest.mark.parametrize("silence_s", [LIMIT_S, SILENCE_S])
def test_a_reader_waits_for_another_pair(scene: Scene, silence_s: float) -> None:
    """At the stream's end, and after a silence. What it waits for can be read when there is one."""
    seen: list[bool] = []

    def wait(renewed: int) -> bool:
        seen.append(bool(ready(renewed, timeout_s=0)))
        scene.exchange(stream, 0).say(b"34" if len(seen) == 1 else b"5")
        seen.append(bool(ready(renewed, timeout_s=0)))
        return True

    stream = scene.stream(wait, silence_s)
    scene.channels[0].say(b"012")
    for expected in (b"012", b"34", b"5"):
        assert read(stream, len(expected)) == expected
        if silence_s == LIMIT_S:
            scene.channels[-1].lose()
    assert seen == [False, True] * 2


def test_what_a_reader_waits_for_is_its_own_until_it_goes_on(scene: Scene) -> None:
    """Otherwise it would wait for whatever gets the number of the descriptor next."""
    seen: list[Path] = []

    def wait(renewed: int) -> bool:
        for _ in range(3):
            seen.append(Path(f"/proc/self/fd/{renewed}").readlink())
            scene.exchange(stream, 0).say(b"0")
        return True

    stream = scene.stream(wait)
    scene.channels[0].lose()
    assert read(stream, 1) == b"0"
    assert len(set(seen)) == 1


@pytest.mark.parametrize("lasts", [True, False])
def test_when_nobody_waits_the_stream_ends_as_it_was_lost(scene: Scene, lasts: bool) -> None:
    asked: list[int] = []

    def wait(renewed: int) -> bool:
        asked.append(renewed)
        return False

    silent = scene.stream(wait if lasts else None, SILENCE_S)
    with pytest.raises(IncompleteFrame, match=r"nothing came from the peer for 0\.02 s"):
        read(silent, 1)
    ended = scene.stream(wait if lasts else None)
    scene.channels[-1].lose()
    assert read(ended, 1) == b""
    assert len(asked) == 2 * lasts


def test_a_new_pair_that_is_lost_already_is_waited_after(scene: Scene) -> None:
    def wait(_: int) -> bool:
        if len(scene.channels) < 3:
            scene.channel().lose()
        else:
            scene.channel().say(b"012")
        stream.exchange(*scene.channels[-1].fds, 1, GREETING)
        return True

    stream = scene.stream(wait)
    stream.write(b"ab")
    scene.channels[0].lose()
    assert read(stream, 3) == b"012"
    stream.write(b"c")
    assert scene.channels[3].hear_greeting() == 0
    assert scene.channels[3].hear(2) == b"bc"


def refused(scene: Scene, stream: LastingDescriptors, position: int) -> None:
    """Check that a stream does not go on at a position, and lets go of the descriptors."""
    before = open_fds()
    channel = scene.channel()
    with pytest.raises(IncompleteFrame):
        stream.exchange(*channel.fds, position, GREETING)
    assert channel.hear(1) == b"", "nothing was said, and nobody has the descriptors any more"
    channel.lose()
    assert not open_fds().items() - before.items()


@pytest.mark.parametrize("position", [0, 1, 2, 4, 9, 1 << 63])
def test_a_stream_ends_at_a_position_that_no_peer_has(scene: Scene, position: int) -> None:
    stream = scene.stream(None)
    stream.write(b"ab")
    stream.last(comes)
    reader = Reader(stream)
    stream.write(b"cde")
    stream.confirmed(stream.position)
    stream.write(b"fgh")
    for possible in (5, 7, 8):
        channel = scene.exchange(stream, possible)
        channel.hear_greeting()
        assert channel.hear(8 - possible) == b"fgh"[possible - 5 :]
        reader.follow(channel, b"0")
    reader.wait_idle()
    refused(scene, stream, position)
    assert in_time(reader.worker) == b"000"
    refused(scene, stream, 8)


@pytest.mark.parametrize("lasted", [True, False])
def test_a_stream_that_outlasts_nothing_ends_with_its_pair(scene: Scene, lasted: bool) -> None:
    stream = scene.stream(comes if lasted else None)
    stream.settle()
    refused(scene, stream, 0)
    stream.write(b"ab")
    assert scene.channels[0].hear(2) == b"ab", "it is as it was"
    scene.channels[0].lose()
    with pytest.raises(BrokenPipeError):
        stream.write(b"cd")
    assert read(stream, 1) == b""


def test_what_was_not_written_to_its_end_is_followed_by_nothing(scene: Scene) -> None:
    """Nobody would know what the bytes after a hole are."""
    stream = scene.stream(comes, SILENCE_S)
    stream.write(MUCH)
    while piece := scene.channels[0].hear_some():
        assert piece in MUCH, "a part of it came"
    stream.write(b"ab")
    assert scene.channels[0].hear_some() == b""
    stream.settle()
    with pytest.raises(BrokenPipeError):
        stream.write(b"ab")
    assert scene.channels[0].hear_some() == b""


@pytest.mark.parametrize("exchanges", [0, 1])
def test_a_stream_that_was_hung_up_has_ended_at_both_ends(scene: Scene, exchanges: int) -> None:
    stream = scene.stream(comes)
    for _ in range(exchanges):
        scene.exchange(stream, 0).hear_greeting()
    stream.hang_up()
    assert scene.channels[-1].hear(1) == b""
    assert read(stream, 1) == b""
    stream.write(b"lost")
    refused(scene, stream, 0)


@pytest.mark.parametrize("seed", range(8))
def test_both_directions_are_whole_wherever_the_connection_is_lost(scene: Scene, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    sent, said = chance.randbytes(60_000), chance.randbytes(20_000)
    stream = scene.stream(comes)
    reader = Reader(stream)
    step = chance.choice([7, 100, 5000, 60_000])
    pieces = [sent[at : at + step] for at in range(0, len(sent), step)]
    writer = Worker("writer", lambda: deque(map(stream.write, pieces)))
    channel, heard, at = scene.channels[0], b"", 0
    for _ in range(10):
        reader.follow(channel, said[at : at + 1])
        channel.say(said[at + 1 : at + chance.randrange(1500)])
        heard += channel.hear(min(chance.randrange(6000), len(sent) - len(heard)))
        if chance.random() < 0.5:
            channel.lose()
        channel, exchange = scene.exchanging(stream, len(heard))
        at = channel.hear_greeting()
        while not exchange.wait(0):
            heard += channel.hear_some()
        exchange.result()
    reader.follow(channel, said[at : at + 1])
    channel.say(said[at + 1 :])
    heard += channel.hear(len(sent) - len(heard))
    assert heard == sent
    in_time(writer)
    until(lambda: len(reader.came) == len(said), "the reader to have all")
    stream.settle()
    channel.lose()
    assert in_time(reader.worker) == said
