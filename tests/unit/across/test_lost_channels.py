"""Page channels that are lost in a bad moment: nobody waits for ever, no failure stays untold."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from checkpoint.errors import ImageError
from checkpoint.host.run import start
from checkpoint.host.worker import Worker
from migrate.memory.channels import PageChannels
from migrate.memory.encoding import EncodingChoice
from migrate.memory.receiver import PageReceiver
from migrate.wire import protocol
from migrate.wire.failures import AgentGone
from migrate.wire.protocol import BatchesThere
from tests.rig import until
from tests.unit.migrate.memory.scene import GOOD, pages_message, submit
from tests.unit.migrate.memory.wires import Wire
from transport.errors import IncompleteFrame
from transport.framing import FrameStream
from transport.openssh import SshProcess
from transport.throttle import RateLimit

LIMIT_S = 20.0
#: More than the buffers between two channels take.
LARGE = b"x" * (1 << 19)


def send(wire: Wire, number: int, data: bytes = GOOD) -> None:
    """Send one batch by a channel; without `data` it is empty."""
    message = pages_message(number, data) if data else pages_message(number, data, extents=())
    FrameStream(wire).send(protocol.encode(message), [data])


@contextlib.contextmanager
def receiving(
    path: Path, put: Callable[[protocol.Pages], None], *kinds: type[Wire]
) -> Iterator[tuple[PageReceiver, list[Wire]]]:
    """Yield a receiver that lasts, and channels to it, of these kinds."""
    wires: list[Wire] = []
    with PageReceiver(
        path, len(kinds), lambda message, _: put(message), 1.0, lasting=True
    ) as found:
        try:
            wires += [kind(path) for kind in kinds]
            yield found, wires
        finally:
            for wire in wires:
                wire.close()


def fails(receiver: PageReceiver) -> str | None:
    """Return what a receiver says has failed; None if nothing has."""
    try:
        receiver.check()
    except (ImageError, OSError) as error:
        return str(error)
    return None


class Renewals:
    """The way to new channels (Renewal) by `open_streams`. `in_place` batches have come."""

    def __init__(
        self, open_streams: Callable[[], list[Wire]], receiver: PageReceiver | None
    ) -> None:
        self.renewed = self.in_place = 0
        self._open, self._receiver = open_streams, receiver

    def renew(self) -> tuple[list[Wire], BatchesThere]:
        there = (self.in_place, ()) if self._receiver is None else self._receiver.renew()
        return self._open(), BatchesThere(in_place=there[0], beyond=there[1])


def over(wires: Iterable[Wire | SshProcess], renewals: Renewals, limit: RateLimit) -> PageChannels:
    return PageChannels([*wires], EncodingChoice(["raw"]), limit, renewals)


NO_LIMIT = RateLimit(None)


def test_a_page_that_cannot_be_put_in_place_is_no_lost_channel(tmp_path: Path) -> None:
    def put(_: protocol.Pages) -> None:
        raise OSError(24, "Too many open files")

    with receiving(tmp_path / "pages", put, Wire) as (receiver, wires):
        send(wires[0], 0)
        assert "Too many open files" in until(lambda: fails(receiver), "a failure")


def test_a_batch_that_fails_is_told_although_its_channel_was_given_up(tmp_path: Path) -> None:
    def put(message: protocol.Pages) -> None:
        if message.number == 1:
            raise ImageError("the page store is full")

    with receiving(tmp_path / "pages", put, Wire, Wire) as (receiver, wires):
        send(wires[1], 1)
        until(lambda: receiver._waiting, "the batch")
        assert receiver.renew() == (0, (1,))
        wires.append(Wire(tmp_path / "pages"))
        send(wires[-1], 0, b"")
        assert until(lambda: fails(receiver), "a failure") == "the page store is full"


def test_a_batch_that_waits_twice_came_twice(tmp_path: Path) -> None:
    with receiving(tmp_path / "pages", lambda _: None, Wire, Wire, Wire) as (receiver, wires):
        send(wires[0], 1)
        send(wires[1], 1)
        assert until(lambda: fails(receiver), "a failure") == "batch 1 with pages came twice"


@pytest.mark.parametrize("notices", [True, False])
def test_a_channel_that_is_lost_alone_ends_the_waits_of_the_others(
    tmp_path: Path, notices: bool
) -> None:
    """They wait for the lost batch. Its own channel may notice, or have nothing more to send."""
    blocked = threading.Event()

    class Lost(Wire):
        def write(self, data: bytes | memoryview) -> None:
            assert blocked.wait(LIMIT_S)
            if notices:
                raise IncompleteFrame("this ssh(1) died")

        def ended(self) -> bool:
            return blocked.is_set()

    class Other(Wire):
        large = 0

        def write(self, data: bytes | memoryview) -> None:
            self.large += len(data) == len(LARGE)
            if self.large == 2:
                blocked.set()
            super().write(data)

    path = tmp_path / "pages"
    with receiving(path, lambda _: None, Lost, Other) as (receiver, wires):
        renewals = Renewals(lambda: [Wire(path), Wire(path)], receiver)
        channels = over(wires, renewals, NO_LIMIT)
        for number in range(3):
            submit(channels, 300 * number, LARGE)
        drained = Worker("drain", channels.drain)
        try:
            assert drained.wait(LIMIT_S)
            assert channels.take_lost()
        finally:
            for wire in wires:
                wire.cut()
            channels.close()


def test_empty_batches_are_handed_over_before_a_drain_ends() -> None:
    slow = threading.Event()

    class Slow(Wire):
        def write(self, data: bytes | memoryview) -> None:
            assert slow.wait(LIMIT_S)
            super().write(data)

    renewals = Renewals(lambda: [Slow()], None)
    channels = over([Wire()], renewals, NO_LIMIT)
    submit(channels, 0, GOOD)
    channels.drain()
    renewals.renewed = 1
    drained = Worker("drain", channels.drain)
    assert not drained.wait(0.2)
    slow.set()
    assert drained.wait(LIMIT_S)
    channels.close()


def test_a_batch_that_has_come_begins_the_row_of_vain_renewals_anew() -> None:
    last: list[Wire] = [Wire()]

    def another() -> list[Wire]:
        last.append(Wire())
        return last[-1:]

    renewals = Renewals(another, None)
    channels = over(last[:1], renewals, NO_LIMIT)
    for _ in range(8):
        submit(channels, 0, GOOD)
        channels.drain()
        renewals.in_place = channels.count
        channels.confirmed(channels.count)
        last[-1].cut()
        for _ in range(2):
            submit(channels, 0, GOOD)
            channels.drain()
    channels.close()


def test_no_page_is_written_to_a_file_that_has_a_closed_channels_number(tmp_path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Limit(RateLimit):
        def take(self, size: int) -> None:
            inside.set()
            assert go_on.wait(LIMIT_S)

    def none() -> list[Wire]:
        raise AgentGone("it stays lost", "", None)

    ssh = SshProcess(start(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    renewals = Renewals(none, None)
    channels = over([ssh], renewals, Limit(None))
    submit(channels, 0, GOOD)
    assert inside.wait(LIMIT_S)
    renewals.renewed = 1
    another = Worker("submit", lambda: submit(channels, 0, GOOD))
    until(ssh.ended, "the channel to be closed")
    with contextlib.ExitStack() as stack:
        paths = [tmp_path / str(number) for number in range(30)]
        for path in paths:
            stack.enter_context(path.open("wb", buffering=0))
        go_on.set()
        assert another.wait(LIMIT_S)
        assert isinstance(another.failure, AgentGone)
        channels.close()
        assert sum(path.stat().st_size for path in paths) == 0
