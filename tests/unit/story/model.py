"""What must come of a fault, from the course of a migration and the commit rule alone.

The model knows nothing of the product's code. `STORY` is a migration where nothing goes wrong: what
the coordinator asks of the target, what each host does then, and the states that people are told. A
fault has a place in it. Before the kill, everything that was done is undone on its host in reverse
order, and the source runs the container. The target gets GO only after the kill, and nothing is
undone from then on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

#: Pairs (what, name). `ask` is a question to the target, `tell` is a message without an answer,
#: `source` and `target` are steps of a host, and `state` is the state that the migration enters.
STORY: tuple[tuple[str, str], ...] = (
    ("ask", "Hello"),
    ("ask", "CheckPaths"),
    ("ask", "Examine"),
    ("ask", "Ping"),
    ("source", "pack"),
    ("ask", "Prepare"),
    ("target", "prepare"),
    ("ask", "MakeTmpfs"),
    ("state", "prepared"),
    ("source", "suspend restart policy"),
    ("source", "checkpoint"),
    ("state", "armed"),
    ("ask", "Arm"),
    ("target", "start restore"),
    ("ask", "ArmTmpfs"),
    ("tell", "Freezing"),
    ("source", "frozen"),
    ("state", "frozen"),
    ("tell", "CriuImages"),
    ("ask", "Restore"),
    ("target", "restored"),
    ("state", "held"),
    ("source", "pause monitor"),
    ("state", "killing"),
    ("source", "end monitor"),
    ("state", "killed"),
    ("ask", "Go"),
    ("target", "resumed"),
    ("target", "settle"),
    ("state", "resumed"),
    ("ask", "Finish"),
    ("source", "remove migrated"),
    ("state", "done"),
)
#: The step that undoes each step before the kill. A step that is not listed leaves nothing.
UNDONE_BY = {
    "suspend restart policy": "no longer held back",
    "frozen": "thawed",
    "pause monitor": "monitor goes on",
    "prepare": "unprepare",
    "start restore": "delete",
    "restored": "killed what was restored",
}
QUESTIONS = [name for what, name in STORY if what == "ask"]
#: The questions that change nothing on the target.
HARMLESS = QUESTIONS[: QUESTIONS.index("Prepare")]
BEFORE_THE_KILL = QUESTIONS[QUESTIONS.index("Prepare") : QUESTIONS.index("Go")]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The end of a migration as in stage.Ending, with the steps of each host."""

    code: int
    error_kind: str | None
    outcome: str
    states: tuple[str, ...]
    source: tuple[str, ...]
    target: tuple[str, ...]
    running: frozenset[str]
    held: bool = False


def done_before(place: tuple[str, str], kind: str) -> tuple[str, ...]:
    """Return the names of one kind that come before a place of the story."""
    return tuple(name for what, name in STORY[: STORY.index(place)] if what == kind)


def answered(question: str) -> tuple[str, ...]:
    """Return the steps of the target that follow a question."""
    follows = STORY[STORY.index(("ask", question)) + 1 :]
    end = next(index for index, (what, _) in enumerate(follows) if what != "target")
    return tuple(name for _, name in follows[:end])


def undone(done: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(UNDONE_BY[name] for name in reversed(done) if name in UNDONE_BY)


ALL = ("the", "end")
MOVED = Expected(
    code=0,
    error_kind=None,
    outcome="done",
    states=tuple(name for what, name in STORY if what == "state"),
    source=tuple(name for what, name in STORY if what == "source" and name != "pack"),
    target=tuple(name for what, name in STORY if what == "target"),
    running=frozenset({"target"}),
)


def so_far(place: tuple[str, str], obeyed: tuple[str, ...] = ()) -> Expected:
    """Return the end of a migration that stops at a place, and of which nothing is undone.

    `obeyed` are steps that the target takes besides those before the place.
    """
    states = done_before(place, "state")
    return replace(
        MOVED,
        states=states,
        outcome=states[-1] if states else "refused",
        source=tuple(name for name in done_before(place, "source") if name != "pack"),
        target=(*done_before(place, "target"), *obeyed),
    )


def refused(place: tuple[str, str], code: int = 49, kind: str = "Refused") -> Expected:
    """Return the end of a migration that is refused at a place and has changed nothing."""
    return replace(
        so_far(place), code=code, error_kind=kind, outcome="refused", running=frozenset({"source"})
    )


def rolled_back(
    place: tuple[str, str], obeyed: tuple[str, ...] = (), code: int = 50, kind: str = "RolledBack"
) -> Expected:
    """Return the end of a migration that is rolled back from a place.

    All steps are undone, and the source runs the container.
    """
    before = so_far(place, obeyed)
    return replace(
        before,
        code=code,
        error_kind=kind,
        outcome="rolled back",
        states=(*before.states, "rolling back", "rolled back"),
        source=(*before.source, *undone(before.source)),
        target=(*before.target, *undone(before.target)),
        running=frozenset({"source"}),
    )
