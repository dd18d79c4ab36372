"""What must come of a fault, from the story of a move and the commit rule alone; knows nothing of the product's code.

`STORY` is a move where nothing goes wrong: what is asked of the target, what each host then does, and the
states that people are told of. A fault has a place in it. Before the kill everything that was done is undone
in reverse on its host, and the source runs the container; the target gets GO only after the kill, and nothing
is undone from then on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

#: (what, name). ask: a question to the target; tell: something streamed to it; source and target: what
#: happens on a host; state: the move is in it from now on.
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
    ("source", "checkpoint"),
    ("state", "armed"),
    ("ask", "Arm"),
    ("target", "start restore"),
    ("ask", "ArmTmpfs"),
    ("source", "suspend restart policy"),
    ("tell", "Freezing"),
    ("source", "frozen"),
    ("state", "frozen"),
    ("tell", "CriuImages"),
    ("ask", "Restore"),
    ("target", "restored"),
    ("state", "held"),
    ("source", "detach monitor"),
    ("state", "killing"),
    ("state", "killed"),
    ("ask", "Go"),
    ("target", "resumed"),
    ("target", "settle"),
    ("state", "resumed"),
    ("ask", "Finish"),
    ("source", "remove migrated"),
    ("state", "done"),
)
#: How each thing done before the kill is undone. What is not listed leaves nothing.
UNDONE_BY = {
    "suspend restart policy": "no longer held back",
    "frozen": "thawed",
    "prepare": "unprepare",
    "start restore": "delete",
    "restored": "killed what was restored",
}
QUESTIONS = [name for what, name in STORY if what == "ask"]
#: Nothing was changed as long as no more than these was asked.
HARMLESS = QUESTIONS[: QUESTIONS.index("Prepare")]
BEFORE_THE_KILL = QUESTIONS[QUESTIONS.index("Prepare") : QUESTIONS.index("Go")]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """An ending: as in stage.Ending, and what happened on each host."""

    code: int
    error_kind: str | None
    outcome: str
    states: tuple[str, ...]
    source: tuple[str, ...]
    target: tuple[str, ...]
    running: frozenset[str]
    held: bool = False


def done_before(place: tuple[str, str], kind: str) -> tuple[str, ...]:
    """What of a kind comes before a place of the story."""
    return tuple(name for what, name in STORY[: STORY.index(place)] if what == kind)


def answered(question: str) -> tuple[str, ...]:
    """What the target does when it is asked."""
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
    """Everything before a place was done, and what the target did of it besides; nothing is undone."""
    states = done_before(place, "state")
    return replace(
        MOVED,
        states=states,
        outcome=states[-1] if states else "refused",
        source=tuple(name for name in done_before(place, "source") if name != "pack"),
        target=(*done_before(place, "target"), *obeyed),
    )


def refused(place: tuple[str, str], code: int = 49, kind: str = "Refused") -> Expected:
    """Nothing was changed."""
    return replace(
        so_far(place), code=code, error_kind=kind, outcome="refused", running=frozenset({"source"})
    )


def rolled_back(
    place: tuple[str, str], obeyed: tuple[str, ...] = (), code: int = 50, kind: str = "RolledBack"
) -> Expected:
    """All that was done is undone, and the source runs it."""
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
