"""Tests of migrate/link.py: another connection is made, and leads to the agent that was there."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from checkpoint.host.worker import Worker
from migrate import link as module
from migrate.agent.plug_command import PLUGGED, TakeUp, plug_command
from migrate.link import ANSWER_S, NO_AGENT, Link, WayBack
from migrate.wire.message import encode
from transport.connection import Process
from transport.destination import Destination
from transport.errors import IncompleteFrame, PeerEnded, StreamError, TooSlow, Unreachable
from transport.kept import COUNT

#: A limit, in seconds, that only a failure reaches.
LIMIT_S = 20.0
AGENT = Path("/run/migrate/7.channel")
FAILED = IncompleteFrame("the line broke")
GREETING = PLUGGED + COUNT.pack(1 << 40)


class Plug:
    """The Process of a plug. Its stdout gives these pieces; it exits with `status`."""

    def __init__(self, *says: bytes | BaseException, status: int = 0) -> None:
        self._says = [*says]
        self._status = status
        self.closed = False
        self.patience_s: float | None = None

    def read(self, size: int) -> bytes:
        assert self.patience_s == ANSWER_S
        piece = self._says.pop(0) if self._says else b""
        if isinstance(piece, BaseException):
            raise piece
        if rest := piece[size:]:
            self._says.insert(0, rest)
        return piece[:size]

    def left(self) -> list[bytes | BaseException]:
        """Return what was not read."""
        return self._says

    def patience(self, seconds: float | None) -> None:
        self.patience_s = seconds

    def wait(self) -> int:
        return self._status

    def close(self) -> None:
        self.closed = True

    def read_into(self, view: memoryview) -> int:
        raise NotImplementedError

    def write(self, data: bytes | memoryview) -> None:
        raise NotImplementedError

    def read_errors(self, size: int) -> bytes:
        raise NotImplementedError

    def end_input(self) -> None:
        raise NotImplementedError

    def ended(self) -> bool:
        raise NotImplementedError


class Connected:
    """A Connection, open for a block, whose commands end as `plug` says."""

    destination = Destination(name="beta", user="root")

    def __init__(self, plug: Plug | Exception, number: int, events: list[str]) -> None:
        self._plug, self._number, self._events = plug, number, events
        self.commands: list[str] = []

    def __enter__(self) -> Connected:
        self._events.append(f"open {self._number}")
        return self

    def __exit__(self, *_: object) -> None:
        self._events.append(f"close {self._number}")

    def run(self, command: str) -> Process:
        self.commands.append(command)
        if isinstance(self._plug, Exception):
            raise self._plug
        return self._plug


class Host:
    """A host to which connections are made. `events` tells what became of them, by number.

    The first of them is that which is lost. Another one has the next of `plugs`, or is not made if
    that is an error for `connect`; the last one stays.
    """

    def __init__(self, *plugs: Plug | Exception) -> None:
        self._plugs = [*plugs]
        self.events: list[str] = []
        self.connections: list[Connected] = []
        self.tried = threading.Event()

    @property
    def tries(self) -> int:
        return len(self.events) - sum(event.startswith("close") for event in self.events) - 1

    def connect(self) -> Connected:
        plug: Plug | Exception = Plug()
        if self.connections and self._plugs:
            plug = self._plugs[0] if len(self._plugs) == 1 else self._plugs.pop(0)
            self.tried.set()
        if isinstance(plug, Unreachable | OSError):
            self.events.append("fail")
            raise plug
        self.connections.append(Connected(plug, len(self.connections), self.events))
        return self.connections[-1]


def test_a_link_is_the_connection_there_is() -> None:
    host = Host()
    with Link(host.connect) as link:
        link.run("a")
        link.renew()
        link.run("b")
        assert link.destination == Connected.destination
        assert [connection.commands for connection in host.connections] == [["a"], ["b"]]
    assert host.events == ["open 0", "open 1", "close 0", "close 1"]


def test_a_link_keeps_its_connection_until_there_is_another() -> None:
    host = Host(Unreachable("no route"), Plug())
    with Link(host.connect) as link:
        with pytest.raises(Unreachable, match="no route"):
            link.renew()
        link.run("a")
        assert host.connections[0].commands == ["a"]
        link.renew()
        link.run("b")
        assert host.connections[1].commands == ["b"]
    assert host.events == ["open 0", "fail", "open 1", "close 0", "close 1"]


def test_a_link_ends_its_connection_when_its_block_fails() -> None:
    host = Host()
    with pytest.raises(KeyError), Link(host.connect):
        raise KeyError
    assert host.events == ["open 0", "close 0"]


class Way:
    """A WayBack to a host. `go` goes it."""

    def __init__(self, link: Link, patience_s: float) -> None:
        self.notes: list[str] = []
        self.back = WayBack(link, AGENT, patience_s, self.notes.append)
        self.leave = self.back.leave

    def go(self, received: int = 7) -> tuple[Process, int]:
        worker = Worker("way back", lambda: self.back(received, FAILED))
        assert worker.wait(LIMIT_S), "it waits for ever"
        return worker.result()


@pytest.fixture
def way_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Way]]:
    """Yield the maker of ways to hosts, with short pauses between the tries."""
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)
    with contextlib.ExitStack() as stack:

        def make(host: Host, patience_s: float = LIMIT_S) -> Way:
            return Way(stack.enter_context(Link(host.connect)), patience_s)

        yield make


@pytest.mark.parametrize("size", [1, 4, 9, 100])
def test_the_way_leads_to_a_channel_and_tells_what_the_agent_has(
    way_to: Callable[..., Way], size: int
) -> None:
    says = GREETING + b"beyond"
    plug = Plug(*(says[at : at + size] for at in range(0, len(says), size)))
    host = Host(plug)
    way = way_to(host)
    assert way.go(7) == (plug, 1 << 40)
    assert b"".join(cast(list[bytes], plug.left())) == b"beyond"
    message = encode(TakeUp(position=7)).decode()
    assert host.connections[1].commands == [plug_command(AGENT, message)]
    assert not plug.closed
    assert host.events == ["open 0", "open 1", "close 0"]
    assert len(way.notes) == 2
    assert way.notes[0] == (
        "the connection to beta is lost (the line broke); it is tried again for 20 s,"
        " and the container runs on here"
    )
    assert re.fullmatch(r"connected to beta again, after \d+\.\d s", way.notes[1])


@pytest.mark.parametrize(
    "fault",
    [
        Unreachable("no route"),
        OSError(101, "no network"),
        StreamError("no session"),
        Plug(IncompleteFrame("it broke again")),
        Plug(PLUGGED, TooSlow("no answer")),
        Plug(GREETING[:-1], status=-1),
        Plug(status=255),
        Plug(status=0),
    ],
)
def test_the_connection_is_tried_until_the_agent_answers(
    way_to: Callable[..., Way], fault: Plug | Exception
) -> None:
    plug = Plug(GREETING)
    host = Host(fault, Unreachable("no route"), plug)
    way = way_to(host)
    assert way.go() == (plug, 1 << 40)
    assert host.tries == 3
    assert len(way.notes) == 2
    assert not plug.closed
    assert isinstance(fault, Exception) or fault.closed


class Clock:
    """A clock that goes on by the pauses that somebody takes, of which it keeps a record."""

    def __init__(self) -> None:
        self.now_s, self.pauses_s = 1000.0, list[float]()

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> bool:
        """Be the wait of a threading.Event that is never set."""
        self.pauses_s.append(seconds)
        self.now_s += seconds
        return False


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Unreachable("no route"), "no route"),
        (TimeoutError(), "TimeoutError"),
        (Plug(GREETING[:-1], status=-1), "the connection was lost again"),
    ],
)
def test_when_the_patience_is_over_it_is_tried_no_more(
    monkeypatch: pytest.MonkeyPatch, fault: Plug | Exception, said: str
) -> None:
    clock, host = Clock(), Host(fault)
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "threading", SimpleNamespace(Event=lambda: clock))
    with Link(host.connect) as link:
        way = Way(link, 9.5)
        text = f"^the line broke; it could not be made again in 10 s: {said}$"
        with pytest.raises(IncompleteFrame, match=text) as caught:
            way.go()
    assert isinstance(caught.value.__cause__, Exception)
    assert clock.pauses_s == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, pytest.approx(0.5)]
    assert host.tries == 9
    assert len(way.notes) == 1


@pytest.mark.parametrize("greeting", [b"", PLUGGED])
def test_without_an_agent_there_is_no_other_try(
    way_to: Callable[..., Way], greeting: bytes
) -> None:
    plug = Plug(*([greeting] if greeting else []), status=NO_AGENT)
    host = Host(plug)
    with pytest.raises(PeerEnded, match=r"^the line broke; the agent there has ended$"):
        way_to(host).go()
    assert host.tries == 1
    assert plug.closed


def test_a_plug_that_finds_no_agent_says_so(tmp_path: Path) -> None:
    """Whether the agent has ended, or was killed and has left its socket."""
    left = tmp_path / "left"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as killed:
        killed.bind(str(left))
    for path in (tmp_path / "none", left):
        argv = ["sh", "-c", plug_command(path, "{}")]
        done = subprocess.run(argv, check=False, capture_output=True, timeout=LIMIT_S)
        assert (done.returncode, done.stdout) == (NO_AGENT, b"")


def test_who_has_left_tries_once(way_to: Callable[..., Way]) -> None:
    host = Host(Unreachable("no route"))
    way = way_to(host)
    way.leave()
    with pytest.raises(IncompleteFrame):
        way.go()
    assert host.tries == 1


def test_to_leave_ends_a_pause(way_to: Callable[..., Way], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 100 * LIMIT_S)
    host = Host(Unreachable("no route"))
    way = way_to(host, patience_s=1000 * LIMIT_S)
    worker = Worker("way back", way.go)
    assert host.tried.wait(LIMIT_S)
    way.leave()
    assert worker.wait(LIMIT_S / 2), "it waits for ever"
    assert isinstance(worker.failure, IncompleteFrame)
    assert host.tries == 1


@pytest.mark.parametrize("error", [RuntimeError("a defect"), KeyboardInterrupt()])
def test_an_interrupted_try_closes_its_channel(
    way_to: Callable[..., Way], error: BaseException
) -> None:
    plug = Plug(PLUGGED, error)
    with pytest.raises(type(error)):
        way_to(Host(plug)).back(7, FAILED)
    assert plug.closed


def test_what_does_not_begin_with_the_greeting_is_no_answer_of_an_agent(
    way_to: Callable[..., Way],
) -> None:
    """A login shell may say something."""
    plug = Plug(GREETING)
    host = Host(Plug(b"Welcome!\n"), plug)
    assert way_to(host).go() == (plug, 1 << 40)
