"""A hostile target against the real coordinator.

It gives any answer to any question, or what is no message at all.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, ClassVar

from hypothesis import strategies as st

from migrate.cli.exit_codes import CODES
from migrate.errors import ContainerEnded, Defect, LeftBehind, ResumeFailed, Undecided
from migrate.wire.message import Answer, concrete
from tests.fuzz.hostile_source import WILD
from tests.fuzz.watch import Opened, bounded
from tests.unit.story.channel import Frame, Link, Straight
from tests.unit.story.engine import World
from tests.unit.story.faults import Act, lost, message, no_message
from tests.unit.story.stage import Ending, Stage
from tests.wire import payload_of, values
from transport.framing import PREFIX

#: A move has about so many answers.
ANSWERS = 30
KINDS = sorted(concrete(Answer), key=lambda kind: kind.__name__)
NOT_KNOWN_WHERE_IT_RUNS = {CODES[kind] for kind in (ContainerEnded, Undecided, ResumeFailed)}
ON_TARGET = {0, CODES[LeftBehind]}
#: Errors that come of a mistake in a program, and not of a check.
MISTAKES = frozenset(
    """
    ArithmeticError AssertionError AttributeError IndexError KeyError LookupError MemoryError
    NameError OverflowError RecursionError RuntimeError StopIteration TypeError ValueError
    UnicodeDecodeError UnicodeEncodeError ZeroDivisionError error
    """.split()  # noqa: SIM905
)


class Announced(Frame):
    """A frame of which no more than the beginning comes."""

    def __init__(self, header: int, payload: int) -> None:
        super().__init__(b"")
        self._sizes = header, payload

    def to_bytes(self) -> bytes:
        return PREFIX.pack(*self._sizes) + b"{"


def _damaged(at: int, value: Any) -> Act:
    def act(frame: Frame, _: Link) -> list[Frame]:
        fields = json.loads(frame.header)
        names = sorted(fields)
        fields[names[at % len(names)]] = value
        return [Frame(json.dumps(fields).encode(), frame.payload)]

    return act


def _instead(kind: type[Answer], fields: dict[str, Any]) -> Act:
    whole = Frame(json.dumps({"type": kind.__name__, **fields}).encode(), payload_of(kind, fields))
    return lambda _, __: [whole]


def _announced(header: int, payload: int) -> Act:
    return lambda frame, link: [Announced(header, payload), *lost(frame, link)]


def _flood(frame: Frame, _: Link) -> list[Frame]:
    return [*[message("Log", text="\x1b[2J" * 64)] * 64, frame]


def _many(frame: Frame, _: Link) -> list[Frame]:
    return [frame] * 3


def _answer_of(kind: type[Answer]) -> st.SearchStrategy[Act]:
    return values(kind).map(lambda fields: _instead(kind, fields))


#: What is done to an answer. All of it is drawn before the move, because how the move goes must
#: decide nothing that is drawn.
ACTS: st.SearchStrategy[Act] = st.one_of(
    st.builds(_damaged, st.integers(0, 7), WILD),
    st.sampled_from(KINDS).flatmap(_answer_of),
    st.builds(_announced, st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1)),
    st.sampled_from([_flood, _many, lost, no_message]),
)
#: The kind of an answer, and another answer of that kind.
ALIKE = st.sampled_from(KINDS).flatmap(
    lambda kind: st.tuples(st.just(kind.__name__), _answer_of(kind))
)
PLANS = st.tuples(
    st.dictionaries(st.integers(1, ANSWERS), ACTS, max_size=3),
    st.lists(ALIKE, max_size=2).map(dict),
).filter(any)


class Lying(Straight):
    """A channel that does something to some answers: by number, or to the first of a kind."""

    def __init__(self, by_number: dict[int, Act], by_kind: dict[str, Act]) -> None:
        self._by_number, self._by_kind, self._number = by_number, by_kind, 0

    def answer(self, asked: str, frame: Frame, link: Link) -> list[Frame]:
        self._number += 1
        act = self._by_number.get(self._number) or self._by_kind.pop(frame.kind, None)
        return act(frame, link) if act is not None else [frame]


class HostileTarget:
    """Moves to such a target."""

    stage: Stage
    opened: Opened
    #: How often a move ended with each code.
    codes: ClassVar[Counter[int]] = Counter()

    @classmethod
    def play(cls, by_number: dict[int, Act], by_kind: dict[str, Act]) -> None:
        """Move a container, and look at what has come of it."""
        with cls.stage.world() as world:
            with (
                cls.stage.move(world, Lying(dict(by_number), dict(by_kind))) as play,
                bounded(),
                cls.opened.watching([world.directory, cls.stage.directory]),
            ):
                ending = play.run()
            cls.codes[ending.code] += 1
            check(world, ending)
            play.check_nothing_left()


def check(world: World, ending: Ending) -> None:
    """Assert that a move has ended cleanly, and that the container is where it is said to be."""
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
