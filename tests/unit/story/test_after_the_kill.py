"""Migrations that go wrong after the kill: no container is lost or doubled.

What people are told is true, whatever becomes of GO and of its answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from migrate.cli.exit_codes import CODES
from migrate.errors import Undecided
from tests.unit.story.channel import Frame, Link, Straight
from tests.unit.story.faults import lose_host, message
from tests.unit.story.stage import PATIENT, Stage

#: A function that returns what reaches the coordinator in place of the answer to GO.
Fault = Callable[[Frame, Link], list[Frame]]


class AtGo(Straight):
    """A wire that changes the answer to the first GO."""

    def __init__(self, fault: Fault) -> None:
        self._fault, self._done = fault, False

    def answer(self, asked: str, frame: Frame, link: Link) -> list[Frame]:
        if asked != "Go" or frame.kind == "Log" or self._done:
            return [frame]
        self._done = True
        return self._fault(frame, link)


def cut(frame: Frame, link: Link) -> list[Frame]:
    link.cut()
    return []


UNREADABLE: dict[str, Fault] = {
    "it is no JSON": lambda *_: [Frame(b"{")],
    "it is of another type": lambda *_: [message("Clock", monotonic_ns=1)],
    "its stamps are none": lambda *_: [message("Resumed", go_ns=1, resumed_ns="soon", stamps=[])],
    "it has no stamps": lambda *_: [message("Resumed")],
}


@pytest.mark.parametrize("fault", UNREADABLE)
def test_a_target_that_obeyed_is_asked_again_when_its_answer_cannot_be_read(
    theatre: Stage, fault: str
) -> None:
    with theatre.world() as world, theatre.move(world, AtGo(UNREADABLE[fault])) as play:
        ending = play.run()
        assert (ending.code, ending.running, ending.held) == (0, {"target"}, False), ending.said
        assert ending.states[-3:] == ["killed", "resumed", "done"]
        assert ending.report["downtime_us"] is None
        assert "could not be read" in ending.said
        assert world.events("source")[-1] == "remove migrated"
        play.check_memory()
        play.check_nothing_left()


def nothing(frame: Frame, link: Link) -> list[Frame]:
    return []


@pytest.mark.parametrize("fault", [cut, nothing])
def test_a_target_that_did_not_answer_go_is_asked_what_it_did(theatre: Stage, fault: Fault) -> None:
    limits, options = replace(PATIENT, least_go_s=0.2), ("--max-frozen", "2")
    with (
        theatre.world() as world,
        theatre.move(world, AtGo(fault), limits=limits, options=options) as play,
    ):
        ending = play.run()
        assert (ending.code, ending.running, ending.held) == (0, {"target"}, False), ending.said
        assert ending.states[-3:] == ["killed", "resumed", "done"]
        assert "the container was made to run on" in ending.said
        assert world.events("source")[-1] == "remove migrated"
        play.check_memory()
        play.check_nothing_left()


def test_without_word_of_the_target_the_source_keeps_its_container(theatre: Stage) -> None:
    with theatre.world() as world, theatre.move(world, AtGo(cut)) as play:
        lose_host(world)
        ending = play.run()
        assert (ending.code, ending.running) == (CODES[Undecided], {"target"}), ending.said
        assert "or runs there by now" in ending.said
        assert "the source keeps the container, stopped" in ending.said
        assert (ending.report["outcome"], ending.report["cause_kind"]) == ("killed", "AgentEnded")
        assert "remove migrated" not in world.events("source")
        assert play.recover("--go") == 62, "the target cannot know that the source's is dead"
        assert play.recover("--go", "--source-is-dead") == 0, "it runs already"
        assert play.running() == {"target"}
        play.check_nothing_left()


class CutAtGo(Straight):
    """A wire that is cut before GO gets through."""

    def request(self, frame: Frame, link: Link) -> list[Frame]:
        if frame.kind == "Go":
            link.cut()
            return []
        return [frame]


def test_a_link_lost_before_go_is_made_again(theatre: Stage) -> None:
    with theatre.world() as world, theatre.move(world, CutAtGo()) as play:
        ending = play.run()
        assert (ending.code, ending.running, ending.held) == (0, {"target"}, False), ending.said
        assert ending.report["downtime_us"] is None
        assert "brings the rest of memory by itself" in ending.said
        assert world.events("source")[-1] == "remove migrated"
        play.check_memory()
        play.check_nothing_left()


def test_a_host_lost_before_go_leaves_a_held_container_for_recover(theatre: Stage) -> None:
    with theatre.world() as world, theatre.move(world, CutAtGo()) as play:
        lose_host(world)
        ending = play.run()
        assert (ending.code, ending.running, ending.held) == (CODES[Undecided], set(), True), (
            ending.said
        )
        assert "held on" in ending.said
        assert "or runs there" not in ending.said
        assert f"'migratectl recover {play.id}' on this host" in ending.said
        assert "remove migrated" not in world.events("source")
        assert play.recover("--go", "--source-is-dead") == 0
        assert play.running() == {"target"}
        play.check_memory()
