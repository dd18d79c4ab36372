"""What goes wrong between the hosts: a wire that changes one message, and the changes."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections.abc import Callable
from typing import Any

from tests.unit.story.channel import Frame, Link, Straight
from tests.unit.story.engine import World
from transport.errors import Unreachable

#: A function that returns the frames that reach the other end in place of a frame.
Act = Callable[[Frame, Link], list[Frame]]


class Fault(Straight):
    """A wire that changes the first frame of a kind, and passes all others.

    `where` is "request" for a request or what is streamed, "answer" for the answer to a request of
    that kind, and "pages" for a frame on a page channel.
    """

    def __init__(self, where: str, kind: str, act: Act) -> None:
        self._where, self._kind, self._act = where, kind, act
        self.happened = False
        self.asked: list[str] = []

    def request(self, frame: Frame, link: Link) -> list[Frame]:
        self.asked.append(frame.kind)
        return self._pass("request", frame.kind, frame, link)

    def answer(self, asked: str, frame: Frame, link: Link) -> list[Frame]:
        return self._pass("answer", asked, frame, link)

    def pages(self, frame: Frame, link: Link) -> list[Frame]:
        return self._pass("pages", frame.kind, frame, link)

    def _pass(self, where: str, kind: str, frame: Frame, link: Link) -> list[Frame]:
        if self.happened or (where, kind) != (self._where, self._kind):
            return [frame]
        self.happened = True
        return self._act(frame, link)


def once(where: str, kind: str, act: Act) -> Callable[[object], Fault]:
    """Return the maker of a Fault, as a row of the table has it."""
    return lambda _: Fault(where, kind, act)


class Both(Straight):
    """A wire with two faults."""

    def __init__(self, *faults: Fault) -> None:
        self._faults = faults

    def request(self, frame: Frame, link: Link) -> list[Frame]:
        return [
            last
            for first in self._faults[0].request(frame, link)
            for last in self._faults[1].request(first, link)
        ]

    def answer(self, asked: str, frame: Frame, link: Link) -> list[Frame]:
        first = self._faults[0].answer(asked, frame, link)
        return [last for each in first for last in self._faults[1].answer(asked, each, link)]


def lost(_: Frame, link: Link) -> list[Frame]:
    """Cut the connection, with the frame unsent."""
    link.cut()
    return []


def lose_host(world: World) -> None:
    """Let the target be reached only once."""
    connections = itertools.count(1)

    def connect() -> None:
        if next(connections) > 1:
            raise Unreachable("the host is gone")

    world.faults["source connect"] = connect


def dropped(_: Frame, __: Link) -> list[Frame]:
    """Drop the frame. The connection stays."""
    return []


def twice(frame: Frame, _: Link) -> list[Frame]:
    return [frame, frame]


def late(frame: Frame, _: Link) -> list[Frame]:
    """Pass the frame after a while."""
    time.sleep(0.05)
    return [frame]


def no_message(_: Frame, __: Link) -> list[Frame]:
    """Replace the frame by one that is no message."""
    return [Frame(b"\xff\xfe no JSON")]


def no_message_before(frame: Frame, link: Link) -> list[Frame]:
    """Put a frame that is no message before the right one."""
    return [*no_message(frame, link), frame]


def failed(_: Frame, __: Link) -> list[Frame]:
    """Replace the answer by one that says that the target failed."""
    return [message("Failed", kind="ImageError", text="made up by a test", detail=[])]


def another(frame: Frame, _: Link) -> list[Frame]:
    """Replace the answer by one to another question."""
    return [message("TreeListed", paths=[])]


def damaged(frame: Frame, _: Link) -> list[Frame]:
    """Change one byte of the payload."""
    assert frame.payload
    return [Frame(frame.header, frame.payload[:-1] + bytes([frame.payload[-1] ^ 1]))]


def shorter(frame: Frame, _: Link) -> list[Frame]:
    """Cut off the last byte of the payload."""
    assert frame.payload
    return [Frame(frame.header, frame.payload[:-1])]


def with_fields(change: Callable[[dict[str, Any]], None]) -> Act:
    """Return the change of a frame whose header gets other fields."""

    def act(frame: Frame, _: Link) -> list[Frame]:
        fields = json.loads(frame.header)
        change(fields)
        return [Frame(json.dumps(fields).encode(), frame.payload)]

    return act


def after(action: Callable[[], None]) -> Act:
    """Return the change that calls a function and then passes the frame."""

    def act(frame: Frame, _: Link) -> list[Frame]:
        action()
        return [frame]

    return act


def interrupted(number: signal.Signals) -> Act:
    """Return the change that raises a signal in the main thread, which waits for the answer."""
    return after(lambda: signal.raise_signal(number))


def message(name: str, /, **fields: Any) -> Frame:
    """Return a message that is written out, so that it can be wrong."""
    return Frame(json.dumps({"type": name, **fields}).encode())
