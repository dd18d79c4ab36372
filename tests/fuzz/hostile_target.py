"""A hostile target against the real coordinator: any answer to any question, or no message at all."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, ClassVar

from hypothesis import strategies as st

from migrate import logs
from migrate.cli.exit_codes import CODES
from migrate.errors import ContainerEnded, Defect, LeftBehind, ResumeFailed, Undecided
from migrate.message import Answer, concrete
from tests.fuzz.hostile_source import WILD
from tests.fuzz.watch import Opened, bounded
from tests.unit.story.channel import Frame, Link, Straight
from tests.unit.story.engine import World
from tests.unit.story.faults import lost, message, no_message, shorter
from tests.unit.story.processes import until
from tests.unit.story.stage import Ending, Stage
from tests.wire import payload_of, values
from transport.framing import PREFIX

#: In a move there are about so many answers.
ANSWERS = 30
KINDS = sorted(concrete(Answer), key=lambda kind: kind.__name__)
NOT_KNOWN_WHERE_IT_RUNS = {CODES[kind] for kind in (ContainerEnded, Undecided, ResumeFailed)}
ON_TARGET = {0, CODES[LeftBehind]}
#: What comes of a mistake in a program, and not of a check.
MISTAKES = frozenset(
    {"ArithmeticError", "AssertionError", "AttributeError", "IndexError", "KeyError", "LookupError", "MemoryError"}
    | {"NameError", "OverflowError", "RecursionError", "RuntimeError", "StopIteration", "TypeError", "ValueError"}
    | {"UnicodeDecodeError", "UnicodeEncodeError", "ZeroDivisionError", "error"}
)


class Announced(Frame):
    """A frame of which no more than the beginning comes."""

    def __init__(self, header: int, payload: int) -> None:
        super().__init__(b"")
        self._sizes = header, payload

    def to_bytes(self) -> bytes:
        return PREFIX.pack(*self._sizes) + b"{"


class Lying(Straight):
    """Does to some answers, by their number, what hypothesis finds."""

    def __init__(self, data: st.DataObject, which: set[int]) -> None:
        self._data, self._which, self._number = data, which, 0

    def answer(self, asked: str, frame: Frame, link: Link) -> list[Frame]:
        self._number += 1
        if self._number not in self._which:
            return [frame]
        return getattr(self, f"_{self._data.draw(st.sampled_from(DEEDS))}")(frame, link)  # type: ignore[no-any-return]

    def _damaged(self, frame: Frame, _: Link) -> list[Frame]:
        fields = json.loads(frame.header)
        name = self._data.draw(st.sampled_from(sorted(fields)))
        fields[name] = self._data.draw(WILD)
        return [Frame(json.dumps(fields).encode(), frame.payload)]

    def _another(self, _: Frame, __: Link) -> list[Frame]:
        kind = self._data.draw(st.sampled_from(KINDS))
        fields = self._data.draw(values(kind))
        return [Frame(json.dumps({"type": kind.__name__, **fields}).encode(), payload_of(kind, fields))]

    def _same_kind(self, frame: Frame, _: Link) -> list[Frame]:
        kind = next(kind for kind in KINDS if kind.__name__ == frame.kind)
        fields = self._data.draw(values(kind))
        return [Frame(json.dumps({"type": kind.__name__, **fields}).encode(), payload_of(kind, fields))]

    def _flood(self, frame: Frame, _: Link) -> list[Frame]:
        return [*[message("Log", text="\x1b[2J" * 64)] * 64, frame]

    def _many(self, frame: Frame, _: Link) -> list[Frame]:
        return [frame] * 3

    def _announced(self, _: Frame, link: Link) -> list[Frame]:
        size = st.integers(0, (1 << 32) - 1)
        return [Announced(self._data.draw(size), self._data.draw(size)), *lost(_, link)]

    def _cut(self, frame: Frame, link: Link) -> list[Frame]:
        return lost(frame, link)

    def _no_message(self, frame: Frame, link: Link) -> list[Frame]:
        return no_message(frame, link)

    def _short(self, frame: Frame, link: Link) -> list[Frame]:
        return shorter(frame, link) if frame.payload else []


DEEDS = ("damaged", "another", "same_kind", "flood", "many", "announced", "cut", "no_message")


class HostileTarget:
    """One move to such a target."""

    stage: Stage
    opened: Opened
    #: How often a move ended with each code.
    codes: ClassVar[Counter[int]] = Counter()

    @classmethod
    def play(cls, data: st.DataObject) -> None:
        """Move a container, and look at what came of it."""
        which = data.draw(st.sets(st.integers(1, ANSWERS), min_size=1, max_size=3))
        with cls.stage.world() as world:
            with (
                cls.stage.move(world, Lying(data, which)) as play,
                bounded(),
                cls.opened.watching([world.directory, cls.stage.directory, logs.DIRECTORY]),
            ):
                ending = play.run()
            if ending.held:
                until(lambda: not play.settled(), "what was held to be dropped")
            cls.codes[ending.code] += 1
            check(world, ending)
            play.check_nothing_left()


def check(world: World, ending: Ending) -> None:
    """A clean end, and a container that is where it is said to be."""
    cause: Any = ending.report["cause_kind"]
    assert ending.code in {0, 129, 130, 143, *CODES.values()} - {CODES[Defect]}, ending.said
    assert cause not in MISTAKES, ending.said
    assert "Traceback" not in ending.said
    assert "\x1b" not in ending.said, "escapes of another host's"
    assert not any(line.get("source_runs") for line in world.lines()), "two ran"
    if ending.code in ON_TARGET:
        assert ending.running == {"target"}, ending.said
    elif ending.code not in NOT_KNOWN_WHERE_IT_RUNS:
        assert ending.running == {"source"}, ending.said
