"""What goes wrong between the hosts: a Wire that does one thing to one message."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from typing import Any

from tests.unit.story.channel import Frame, Link, Straight

#: Does something to a frame, and returns what reaches the other end.
Act = Callable[[Frame, Link], list[Frame]]


class Fault(Straight):
    """Acts once, on the first frame that it is about: a request (or what is streamed), the answer to it, or pages."""

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


class Both(Straight):
    """Two faults in one move."""

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
    """The network is gone."""
    link.cut()
    return []


def dropped(_: Frame, __: Link) -> list[Frame]:
    """It is swallowed; the network is there."""
    return []


def twice(frame: Frame, _: Link) -> list[Frame]:
    return [frame, frame]


def late(frame: Frame, _: Link) -> list[Frame]:
    """It takes a while."""
    time.sleep(0.05)
    return [frame]


def no_message(_: Frame, __: Link) -> list[Frame]:
    """A frame that is no message."""
    return [Frame(b"\xff\xfe no JSON")]


def no_message_before(frame: Frame, link: Link) -> list[Frame]:
    """A frame that is no message, and then the right one."""
    return [*no_message(frame, link), frame]


def failed(_: Frame, __: Link) -> list[Frame]:
    """The target says that it could not."""
    return [message("Failed", kind="ImageError", text="made up by a test", detail=[])]


def another(frame: Frame, _: Link) -> list[Frame]:
    """An answer to something else."""
    return [message("TreeListed", paths=[])]


def damaged(frame: Frame, _: Link) -> list[Frame]:
    """One byte of the payload is another."""
    assert frame.payload
    return [Frame(frame.header, frame.payload[:-1] + bytes([frame.payload[-1] ^ 1]))]


def shorter(frame: Frame, _: Link) -> list[Frame]:
    """The last byte of the payload is missing."""
    assert frame.payload
    return [Frame(frame.header, frame.payload[:-1])]


def with_fields(change: Callable[[dict[str, Any]], None]) -> Act:
    """Fields of its header are others."""

    def act(frame: Frame, _: Link) -> list[Frame]:
        fields = json.loads(frame.header)
        change(fields)
        return [Frame(json.dumps(fields).encode(), frame.payload)]

    return act


def after(action: Callable[[], None]) -> Act:
    """Something else happens before it is passed on."""

    def act(frame: Frame, _: Link) -> list[Frame]:
        action()
        return [frame]

    return act


def interrupted(number: signal.Signals) -> Act:
    """The user interrupts the move, whose main thread waits for this answer."""
    return after(lambda: signal.raise_signal(number))


def message(name: str, /, **fields: Any) -> Frame:
    """A message written by hand, so that it may be wrong."""
    return Frame(json.dumps({"type": name, **fields}).encode())
