"""Tests of migrate/memory/channels.py and receiver.py together: page channels that are renewed.

The bytes go over real socketpairs, where they are lost as a test has it.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from checkpoint.criu.page_server import PAGE_SIZE, PE_PRESENT
from checkpoint.host.worker import Worker
from migrate.memory import channels as page_channels
from migrate.memory.batches import Extent
from migrate.memory.channels import PageChannels, Renewal
from migrate.memory.encoding import EncodingChoice
from migrate.memory.receiver import PageReceiver
from migrate.wire import protocol
from migrate.wire.failures import AgentGone
from migrate.wire.protocol import BatchesThere
from migrate.wire.values import PageExtent
from tests.unit.migrate.memory.scene import BASE, GOOD, PATIENCE_S, submit
from tests.unit.migrate.memory.wires import Wire
from transport.errors import IncompleteFrame, StreamError
from transport.framing import ByteStream, Descriptors, FrameStream
from transport.throttle import RateLimit

#: An option of socket(7) without a name in Python, and room for all that a test sends.
SO_SNDBUFFORCE, ROOM_BYTES = 32, 8 << 20
ALL = 1 << 40
#: The content of pages, by (dst_id, address).
Memory = dict[tuple[int, int], bytes]


class Cable(Wire):
    """A channel that breaks, together with others.

    `arrives` bytes come at its other end, none once it is `dark`. `lost` bytes are then lost before
    the source is told that the channel broke. `beside` are all cables that break with this one.
    `waits`: a write may have to wait for the peer.
    """

    def __init__(
        self, path: Path | None = None, *, arrives: int = ALL, lost: int = 0, waits: bool = True
    ) -> None:
        super().__init__(path)
        if not waits:
            self._ours.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, ROOM_BYTES)
        self._arrives, self.lost, self.dark = arrives, lost, False
        self.beside: list[Cable] = []

    def write(self, data: bytes | memoryview) -> None:
        arriving = memoryview(data)[: 0 if self.dark else self._arrives]
        self._arrives -= len(arriving)
        if arriving:
            super().write(arriving)
        if len(arriving) < len(data):
            self.dark = True
            for cable in self.beside:
                cable.dark = True
                cable.cut()
            self.lost -= len(data) - len(arriving)
            if self.lost < 0:
                raise IncompleteFrame("the link broke")

    def close(self) -> None:
        """Close this end; a test reads what has come at the other."""
        self.cut()
        self._ours.close()


class Target:
    """A target that keeps the newest content of each page, and the numbers of its batches."""

    def __init__(self, directory: Path, channels: int) -> None:
        self.path, self.channels = directory / "pages.sock", channels
        self.pages: Memory = {}
        self.numbers: list[int] = []
        self.receiver = PageReceiver(self.path, channels, self._put, PATIENCE_S, lasting=True)

    def _put(self, message: protocol.Pages, extents: Iterator[Extent]) -> None:
        self.numbers.append(message.number)
        for dst_id in message.forget:
            self.pages = {key: data for key, data in self.pages.items() if key[0] != dst_id}
        self.pages |= {(dst_id, vaddr): bytes(data) for dst_id, vaddr, _, _, data in extents}


class Frail:
    """A Renewal of which many channels break, after bytes by chance, until `faults` have broken.

    `together`: all channels break with the first of them, as those of one connection do.
    """

    def __init__(self, target: Target, chance: random.Random, *, together: bool) -> None:
        self._target, self._chance, self._together = target, chance, together
        self.renewed, self.faults = 0, 12
        self.cables: list[Cable] = []

    def streams(self) -> Sequence[ByteStream]:
        self.cables = []
        for _ in range(self._target.channels):
            arrives, lost = ALL, 0
            if self.faults and self._chance.random() < 0.8:
                self.faults -= 1
                arrives, lost = self._chance.randrange(60_000), self._chance.randrange(100_000)
            cable = Cable(self._target.path, arrives=arrives, lost=lost, waits=self._together)
            cable.beside = self.cables if self._together else []
            self.cables.append(cable)
        return self.cables

    def renew(self) -> tuple[Sequence[ByteStream], BatchesThere]:
        in_place, beyond = self._target.receiver.renew()
        return self.streams(), BatchesThere(in_place=in_place, beyond=beyond)

    def cut(self) -> None:
        """Have the peer close some channels, or all of them."""
        for cable in self.cables:
            if self._together or self._chance.random() < 0.5:
                cable.cut()


class Source:
    """A source whose processes write pages by chance; what they wrote is sent as batches."""

    def __init__(self, channels: PageChannels, chance: random.Random, most_pages: int) -> None:
        self._channels, self._chance, self._most_pages = channels, chance, most_pages
        self.memory: Memory = {}
        self.lost = 0

    def write(self, *, forget: bool) -> None:
        """Send pages with new content, of a process that is another one if the old is forgotten."""
        dst_id = self._chance.choice([0x101, 0x201, 0x301])
        if forget:
            self.memory = {key: data for key, data in self.memory.items() if key[0] != dst_id}
        pages = self._chance.sample(range(64), self._chance.randint(1, self._most_pages))
        written = {(dst_id, BASE + n * PAGE_SIZE): self._chance.randbytes(PAGE_SIZE) for n in pages}
        self.memory |= written
        self._submit(written, [dst_id] if forget else [])

    def flush(self) -> None:
        """Send what was lost as it is now, as PageBatches does."""
        self._channels.drain()
        while lost := self._channels.take_lost():
            self.lost += len(lost)
            again = {(extent.dst_id, extent.vaddr) for extent in lost} & self.memory.keys()
            if again:
                self._submit({key: self.memory[key] for key in sorted(again)}, [])
            self._channels.drain()

    def _submit(self, pages: Mapping[tuple[int, int], bytes], forget: Sequence[int]) -> None:
        buffer = self._channels.buffer()
        buffer[: len(pages) * PAGE_SIZE] = b"".join(pages.values())
        extents = [PageExtent(*key, 1, PE_PRESENT, False) for key in pages]
        self._channels.submit(extents, buffer, len(pages) * PAGE_SIZE, forget=forget)


def channels_of(streams: Sequence[ByteStream], renewal: Renewal | None) -> PageChannels:
    return PageChannels(streams, EncodingChoice(["raw"]), RateLimit(None), renewal)


@pytest.mark.parametrize("seed", range(60))
def test_the_target_has_the_newest_content_wherever_channels_broke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Batches take effect once and in their order; what they forget is what came before them."""
    monkeypatch.setattr(page_channels, "MOST_FRUITLESS", ALL)
    chance, together = random.Random(seed), seed % 2 == 0  # noqa: S311
    target = Target(tmp_path, chance.randint(1, 3))
    way = Frail(target, chance, together=together)
    with target.receiver, contextlib.closing(channels_of(way.streams(), way)) as channels:
        source = Source(channels, chance, most_pages=60 if together else 10)

        def move() -> None:
            for _ in range(50):
                event = chance.random()
                if event < 0.75:
                    source.write(forget=event < 0.1)
                elif event < 0.85:
                    source.flush()
                elif event < 0.9:
                    channels.confirmed(target.receiver.check())
                elif way.faults:
                    way.faults -= 1
                    way.renewed += event < 0.94
                    way.cut()
            way.faults = 0
            way.renewed += 1  # nobody knows what came by the last channels
            source.flush()
            for cable in way.cables:
                cable.dark, cable.lost = True, ALL
            source.write(forget=False)
            way.renewed += 1
            source.flush()

        moving = Worker("move", move)
        assert moving.wait(PATIENCE_S), "it waits for ever"
        moving.result()
        target.receiver.settle()
        target.receiver.wait(channels.count)
    assert source.lost > 0, "at least what was sent last"
    assert target.numbers == list(range(channels.count))
    assert target.pages == source.memory


class Spare:
    """A Renewal of `channels`, one at a time, to the test, which says in `there` what has come."""

    def __init__(self, first: Cable) -> None:
        self.renewed = 0
        self.there = BatchesThere(in_place=0, beyond=())
        self.error: Exception | None = None
        self.cables = [first]
        self.channels = channels_of([first], self)

    @property
    def renewals(self) -> int:
        return len(self.cables) - 1

    def renew(self) -> tuple[Sequence[ByteStream], BatchesThere]:
        if self.error:
            raise self.error
        self.cables.append(Cable())
        return self.cables[-1:], self.there

    def send(self) -> None:
        submit(self.channels, 0, GOOD)
        self.channels.drain()

    def lose(self) -> None:
        """Have the channel break with a batch that is on its way, and the source notice."""
        self.cables[-1].cut()
        self.send()

    def came(self, cable: int, count: int) -> list[protocol.Pages]:
        """Return the first batches that came by one of the channels."""
        fd = self.cables[cable].theirs.fileno()
        frames = FrameStream(Descriptors(fd, fd, silence_s=PATIENCE_S))
        return [protocol.decode(*frames.receive(), protocol.Pages) for _ in range(count)]

    def close(self) -> None:
        self.channels.close()
        for cable in self.cables:
            cable.theirs.close()


@pytest.fixture
def spare() -> Iterator[Spare]:
    with contextlib.closing(Spare(Cable())) as spare:
        yield spare


def test_a_lost_channel_is_a_failure_if_no_other_may_come(spare: Spare) -> None:
    spare.send()
    spare.channels.settle()
    spare.renewed += 1
    spare.send()
    with pytest.raises(AgentGone):
        spare.lose()
    assert (spare.renewals, spare.channels.take_lost()) == (0, [])


@pytest.mark.parametrize("error", [RuntimeError("a defect"), EOFError(), OSError(5, "I/O error")])
def test_a_failure_that_is_none_of_a_stream_is_told(error: Exception) -> None:
    class Raising(Cable):
        def write(self, data: bytes | memoryview) -> None:
            raise error

    with contextlib.closing(Spare(Raising())) as spare:
        with pytest.raises(AgentGone) as caught:
            spare.send()
        assert (caught.value.__cause__, spare.renewals) == (error, 0)


def test_a_thread_that_still_sends_does_no_harm_to_the_new_channels() -> None:
    sending, closed = threading.Event(), threading.Event()

    class Slow(Cable):
        def write(self, data: bytes | memoryview) -> None:
            sending.set()
            assert closed.wait(PATIENCE_S)
            time.sleep(0.05)
            super().write(data)

        def close(self) -> None:
            super().close()
            closed.set()

    with contextlib.closing(Spare(Slow())) as spare:
        submit(spare.channels, 0, GOOD)
        assert sending.wait(PATIENCE_S)
        spare.renewed += 1
        spare.send()
        assert spare.renewals == 1


@pytest.mark.parametrize(
    ("in_place", "beyond", "renewals"), [(0, (), 5), (1, (), 10), (0, (3,), 10)]
)
def test_channels_that_bring_nothing_five_times_in_a_row_are_given_up(
    spare: Spare, in_place: int, beyond: tuple[int, ...], renewals: int
) -> None:
    """The row begins anew if one batch has come when the channels are lost for the fifth time."""
    for number in range(renewals):
        if number == 4:
            spare.there = BatchesThere(in_place=in_place, beyond=beyond)
        spare.lose()
    with pytest.raises(AgentGone):
        spare.lose()
    assert spare.renewals == renewals


def test_channels_that_had_nothing_to_bring_do_not_count(spare: Spare) -> None:
    for _ in range(10):
        spare.renewed += 1
        spare.channels.drain()
    spare.lose()
    assert spare.renewals == 11


@pytest.mark.parametrize("draining", [False, True])
def test_channels_of_a_lost_connection_are_renewed_although_they_look_fine(
    spare: Spare, draining: bool
) -> None:
    spare.send()
    spare.renewed += 1
    if draining:
        spare.channels.drain()
        assert spare.renewals == 1
    spare.send()
    assert spare.renewals == 1
    assert [batch.number for batch in spare.came(0, 1)] == [0]
    assert spare.cables[0].theirs.recv(1) == b"", "the old channel has ended"
    assert [batch.number for batch in spare.came(1, 2)] == [0, 1]


def test_a_batch_that_is_neither_confirmed_nor_there_is_sent_empty_until_it_is(
    spare: Spare,
) -> None:
    """What was in it is told once; what it tells to forget is sent each time."""
    extents = [PageExtent(0x101, BASE + n * PAGE_SIZE, 1, PE_PRESENT, False) for n in range(5)]
    for page, extent in enumerate(extents):
        sent = [extent], spare.channels.buffer(), PAGE_SIZE
        spare.channels.submit(*sent, forget=[page << 8 | 1])
    spare.channels.drain()
    spare.channels.confirmed(2)
    spare.there = BatchesThere(in_place=1, beyond=(3,))
    found = []
    for _ in range(2):
        spare.renewed += 1
        spare.channels.drain()
        found.append(spare.channels.take_lost())
    assert found == [[extents[2], extents[4]], []]
    batches = [(batch.number, batch.extents, batch.forget) for batch in spare.came(2, 2)]
    assert batches == [(2, (), (0x201,)), (4, (), (0x401,))]


def test_the_bytes_of_all_channels_are_counted(spare: Spare) -> None:
    counts = []
    for _ in range(3):
        spare.send()
        counts.append(spare.channels.sent_bytes)
        spare.renewed += 1
    spare.channels.close()
    came = [len(cable.theirs.recv(1 << 20, socket.MSG_WAITALL)) for cable in spare.cables]
    assert counts == sorted(set(counts))
    assert counts[-1] == spare.channels.sent_bytes == sum(came)


@pytest.mark.parametrize("error", [AgentGone("", "", None), StreamError("no session")])
def test_channels_that_could_not_be_renewed_can_be_closed(error: Exception) -> None:
    before, spare = set(threading.enumerate()), Spare(Cable())
    spare.error = error
    with pytest.raises(type(error)):
        spare.lose()
    assert Worker("close", spare.channels.close).wait(PATIENCE_S)
    assert not set(threading.enumerate()) - before, "the threads of the channels have ended"
    spare.close()
