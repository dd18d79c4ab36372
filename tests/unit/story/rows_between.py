"""Rows of faults between the hosts: in questions, in answers, and in what is not answered."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.unit.story import faults, model
from tests.unit.story.faults import Both, Fault, once
from tests.unit.story.model import MOVED, Expected, answered, refused, rolled_back, so_far
from tests.unit.story.row import IMPATIENT, NOWHERE, TARGET, Row

# --- the target's answers ------------------------------------------------------------------------

#: {name: (where, change of the frame, whether the target obeys the question)}.
ANSWERS: dict[str, tuple[str, faults.Act, bool]] = {
    "the question is lost": ("request", faults.lost, False),
    "the answer is lost": ("answer", faults.lost, True),
    "the target fails": ("answer", faults.failed, True),
    "another answer": ("answer", faults.another, True),
    "no message": ("answer", faults.no_message, True),
    "no message, then the answer": ("answer", faults.no_message_before, True),
}


CAUSES = {
    "the question is lost": "AgentGone",
    "the answer is lost": "AgentEnded",
    "the target fails": "ImageError",
    "another answer": "ProtocolError",
    "no message": "ProtocolError",
    "no message, then the answer": "ProtocolError",
}


def answers() -> Iterator[Row]:
    """Yield a row for each question, and each fault of the question or its answer."""
    for question in model.QUESTIONS:
        for what, (where, act, obeyed) in ANSWERS.items():
            expected = of_a_question(question, what, answered(question) if obeyed else ())
            yield Row(
                name=f"{question}: {what}",
                wire=once(where, question, act),
                expected=expected,
                cause=cause_of(question, what) if expected.code else None,
            )
        yield Row(
            name=f"{question}: the answer is late",
            wire=once("answer", question, faults.late),
            expected=MOVED,
        )


def cause_of(question: str, what: str) -> str:
    """Return the kind of the cause. An agent that has not answered yet may not have started."""
    cause = CAUSES[what]
    return "AgentGone" if (question, cause) == ("Hello", "AgentEnded") else cause


def of_a_question(question: str, what: str, obeyed: tuple[str, ...]) -> Expected:
    place = ("ask", question)
    if question in model.HARMLESS:
        return refused(place, 20, "TargetUnreachable") if what.endswith("lost") else refused(place)
    if question in model.BEFORE_THE_KILL:
        return rolled_back(place, obeyed)
    if question == "Finish":
        return replace(so_far(place), source=MOVED.source, code=51, error_kind="LeftBehind")
    stopped = replace(so_far(place, obeyed), running=TARGET if obeyed else NOWHERE)
    if what == "the target fails":
        return replace(stopped, code=63, error_kind="ResumeFailed")
    return MOVED  # GO is said again over a new connection; a target that answers has obeyed it


def lost_hosts() -> Iterator[Row]:
    """Yield rows where the target cannot be reached again once the link to it is lost.

    The target cannot know whether the source was killed after that, and holds the container.
    """
    restore, go = ("ask", "Restore"), ("ask", "Go")
    held = so_far(restore, ("restored",)).target
    dropped_later = replace(rolled_back(restore, ("restored",)), target=held, held=True)
    yield Row(
        name="Restore: the answer is lost, and the host",
        wire=once("answer", "Restore", faults.lost),
        world=faults.lose_host,
        expected=dropped_later,
        later=("--abort",),
    )
    yield Row(
        name="Restore: the target fails; Abort: the question is lost, and the host",
        wire=lambda _: Both(
            Fault("answer", "Restore", faults.failed), Fault("request", "Abort", faults.lost)
        ),
        world=faults.lose_host,
        expected=dropped_later,
        later=("--abort",),
    )
    yield Row(
        name="Go: the question is lost, and the host",
        wire=once("request", "Go", faults.lost),
        world=faults.lose_host,
        expected=replace(so_far(go), running=NOWHERE, code=60, error_kind="Undecided", held=True),
        later=("--go", "--source-is-dead"),
        cause="AgentGone",
    )
    yield Row(
        name="Go: the answer is lost, and the host",
        wire=once("answer", "Go", faults.lost),
        world=faults.lose_host,
        expected=replace(
            so_far(go, answered("Go")), running=TARGET, code=60, error_kind="Undecided"
        ),
        cause="AgentEnded",
    )


# --- interruptions -------------------------------------------------------------------------------


def interruptions() -> Iterator[Row]:
    """Yield a row for each question, with a signal while the coordinator waits for the answer."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for index, question in enumerate(model.QUESTIONS):
        number = numbers[index % len(numbers)]
        expected = MOVED
        if question in model.HARMLESS:
            expected = refused(("ask", question), 128 + number, "Interrupted")
        elif question in model.BEFORE_THE_KILL:
            expected = rolled_back(
                ("ask", question), answered(question), 128 + number, "Interrupted"
            )
        yield Row(
            name=f"{question}: {number.name} meanwhile",
            wire=once("answer", question, faults.interrupted(number)),
            expected=expected,
        )


# --- what is streamed ----------------------------------------------------------------------------


def streams() -> Iterator[Row]:
    """Yield rows for messages without an answer.

    The answer to the next question tells that such a message went wrong.
    """
    freezing, images, restore = ("tell", "Freezing"), ("tell", "CriuImages"), ("ask", "Restore")

    def row(
        name: str, where: str, kind: str, act: faults.Act, expected: Expected, **more: Any
    ) -> Row:
        return Row(name=name, wire=once(where, kind, act), expected=expected, **more)

    yield row("Freezing is lost", "request", "Freezing", faults.lost, rolled_back(freezing))
    yield row("Freezing is swallowed", "request", "Freezing", faults.dropped, rolled_back(restore))
    # The link breaks while CRIU dumps. When the coordinator notices that is left to chance.
    yield row(
        "Images are lost",
        "request",
        "CriuImages",
        faults.lost,
        rolled_back(images),
        also=(rolled_back(("state", "frozen")),),
    )
    yield row("Images are swallowed", "request", "CriuImages", faults.dropped, rolled_back(restore))
    yield row("Images come twice", "request", "CriuImages", faults.twice, rolled_back(restore))
    yield row("Images are short", "request", "CriuImages", faults.shorter, rolled_back(restore))
    yield row("Images are late", "request", "CriuImages", faults.late, MOVED)
    yield row("Pages are damaged", "pages", "Pages", faults.damaged, rolled_back(restore))
    yield row("Pages are short", "pages", "Pages", faults.shorter, rolled_back(restore))
    yield row("Pages come twice", "pages", "Pages", faults.twice, rolled_back(restore))
    yield row("Pages are late", "pages", "Pages", faults.late, MOVED)
    yield row(
        "Pages are swallowed",
        "pages",
        "Pages",
        faults.dropped,
        rolled_back(restore),
        limits=IMPATIENT,
    )
    archive = ("state", "prepared")
    for kind in ("TmpfsArchive",):
        yield row(f"{kind} is lost", "request", kind, faults.lost, rolled_back(archive), tmpfs=True)
        yield row(f"{kind} is late", "request", kind, faults.late, MOVED, tmpfs=True)
