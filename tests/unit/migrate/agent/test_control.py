"""Tests of migrate/agent/control.py: what an operator can tell an agent that holds."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from checkpoint.errors import ConversationLost
from migrate.agent.control import (
    ABORT,
    ABORT_PROVED,
    GO,
    MAX_ANSWER,
    MAX_TEXT,
    STATUS,
    YIELD,
    ControlSocket,
    Outcome,
    Reply,
    ask,
    reply_in,
)
from migrate.network.late_frames import Frame


class Holder:
    """A fake of Incoming, which raises `failure` when it is asked.

    With `late` it raises after the request took effect, and before otherwise.
    """

    def __init__(self, failure: Exception | None = None, *, late: bool = False) -> None:
        self.holds_container = True
        self.did: list[str] = []
        self.frames: list[tuple[int, bytes]] = []
        self._failure, self._late = failure, late

    def go(self, frames: Iterable[Frame] = ()) -> None:
        self.frames = [(index, bytes(frame)) for index, frame in frames]
        self._do(GO)

    def abort(self) -> None:
        self._do(ABORT)

    def describe(self) -> str:
        return "held"

    def _do(self, what: str) -> None:
        if self._failure is None or self._late:
            self.did.append(what)
            self.holds_container = False
        if self._failure is not None:
            raise self._failure


def exchange(path: Path, holder: Holder, word: str, *, link_alive: bool) -> tuple[Reply, bool]:
    """Have an operator say a word, and return (the answer, whether the agent is done holding)."""
    answers: list[Reply] = []
    with ControlSocket(path) as control:
        assert path.stat().st_mode & 0o777 == 0o600
        operator = threading.Thread(target=lambda: answers.append(ask(path, word)))
        operator.start()
        ended = control.answer(holder, link_alive=link_alive)
        operator.join()
    assert not path.exists()
    return answers[0], ended


@pytest.mark.parametrize(
    ("word", "link_alive", "did", "outcome", "said"),
    [
        (STATUS, False, [], Outcome.OK, "held; the coordinator is gone"),
        (STATUS, True, [], Outcome.OK, "held; the coordinator is still connected"),
        (GO, False, [GO], Outcome.OK, "the container runs on "),
        (ABORT, False, [ABORT], Outcome.OK, "was dropped on "),
        (ABORT, True, [], Outcome.REFUSED, "still connected"),
        (ABORT_PROVED, True, [ABORT], Outcome.OK, "was dropped on "),
        (GO, True, [GO], Outcome.OK, "the container runs on "),
        (YIELD, False, [], Outcome.REFUSED, "'yield'"),
        ("gone", False, [], Outcome.REFUSED, "'gone'"),
    ],
)
def test_each_word_has_its_effect_and_its_answer(
    tmp_path: Path, word: str, link_alive: bool, did: list[str], outcome: Outcome, said: str
) -> None:
    holder = Holder()
    answer, ended = exchange(tmp_path / "control", holder, word, link_alive=link_alive)
    assert answer.outcome is outcome
    assert said in answer.text
    assert (holder.did, ended) == (did, bool(did))


@pytest.mark.parametrize(
    "failure", [ConversationLost("no CRIU"), OSError(5, "no luck"), KeyError("a defect")]
)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("word", [GO, ABORT])
def test_a_failure_is_told_and_what_is_still_held_stays_held(
    tmp_path: Path, word: str, late: bool, failure: Exception
) -> None:
    holder = Holder(failure, late=late)
    answer, ended = exchange(tmp_path / "control", holder, word, link_alive=False)
    held = "is held no more" if late else "is still held"
    assert answer == Reply(outcome=Outcome.FAILED, text=f"{failure}; the container {held}")
    assert ended is late is not holder.holds_container


def test_frames_go_with_go(tmp_path: Path) -> None:
    """They are more than a datagram takes."""
    holder, path = Holder(), tmp_path / "control"
    frames = [(0, b"x" * 100_000), (1, b""), (63, b"y" * 500_000)]
    with ControlSocket(path) as control:
        operator = threading.Thread(target=lambda: ask(path, GO, frames=frames))
        operator.start()
        assert control.answer(holder, link_alive=False)
        operator.join()
    assert holder.frames == frames


def test_a_word_to_an_agent_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ask(tmp_path / "control", STATUS)


@pytest.mark.parametrize("text", ["", "held", "\u00fc\U0001f600" * 4000])
def test_an_answer_arrives_as_it_was_given(text: str) -> None:
    """Of a text too long for one datagram the beginning arrives."""
    data = Reply(outcome=Outcome.REFUSED, text=text).encode()
    assert len(data) <= MAX_ANSWER
    found = reply_in(data)
    assert found.outcome is Outcome.REFUSED
    assert text.startswith(found.text)
    assert len(found.text) == min(len(text), MAX_TEXT)


@pytest.mark.parametrize(
    "data", [b"", b"ok: prose", b"[]", b'{"outcome": "well", "text": ""}', b'{"outcome": "ok"}']
)
def test_what_is_no_answer_is_an_error_of_the_connection(data: bytes) -> None:
    with pytest.raises(ConnectionError):
        reply_in(data)
