"""Tests of migrate/guardian/takeover.py: a container that somebody starts on the source again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.engines import registry
from checkpoint.errors import ContainerNotRunning, EngineRefused
from checkpoint.host import proc
from migrate.agent.control import GO
from migrate.decisions.takeover import Act, Life, Told
from migrate.guardian.takeover import Criu, Takeover, Target
from migrate.journal import cut_off
from migrate.journal.book import process_record
from migrate.journal.records import ProcessRecord
from tests.unit.helpers.apart import Apart
from tests.unit.helpers.begun import begun
from tests.unit.helpers.obedient import Child
from tests.unit.migrate.guardian.scene import Scene


class Far(Target):
    """A target that says the same to each word; `words` has those."""

    def __init__(self, reply: Told) -> None:
        self._reply = reply
        self.words: list[str] = []

    def say(self, word: str, frames: Sequence[tuple[int, bytes]] = ()) -> Told:
        self.words.append(word)
        return self._reply


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Return the answers to whether the container runs again; the last one stays."""
    answers: list[int | None] = [None]

    def runs_again(_: object) -> int | None:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setattr(cut_off, "runs_again", runs_again)
    return answers


@pytest.mark.parametrize(
    ("late", "answers", "told", "end"),
    [
        (True, [7], [], Act.LEAVE),  # `recover`: it has had time to be started
        (True, [None], [GO], Act.FINISH),
        (False, [7], [GO], Act.FINISH),  # a guardian says its first word at once
    ],
)
def test_go_is_not_said_for_a_container_that_was_started_again(
    scene: Scene,
    init: Apart,
    runs: list[int | None],
    late: bool,
    answers: list[int | None],
    told: list[str],
    end: Act,
) -> None:
    runs[:] = answers
    target = Far(Told.OBEYED if end is Act.FINISH else Told.UNREACHED)
    journal = scene.journal_left("killed")
    init.kill()
    with journal:
        ending = Takeover(journal, scene.left(), Criu(), target, late=late)
        assert ending.run() is end
    assert target.words == told
    if end is Act.LEAVE:
        [line] = ending.said
        assert "was started here again (process 7), and must not run twice" in line
        assert "--abort'" in line


def test_a_guardian_looks_before_it_says_go_again(
    scene: Scene, init: Apart, runs: list[int | None]
) -> None:
    runs[:] = [None, 7]
    target = Far(Told.UNREACHED)
    journal = scene.journal_left("killed")
    init.kill()
    with journal:
        assert Takeover(journal, scene.left(), Criu(), target).run() is Act.LEAVE
    assert target.words == [GO, GO]


def inspecting(answer: Callable[[], int]) -> Callable[[str], Any]:
    return lambda _: SimpleNamespace(inspect=lambda name: SimpleNamespace(pid=answer()))


def failing(error: Exception) -> Callable[[], int]:
    def fail() -> int:
        raise error

    return fail


@pytest.mark.parametrize("error", [ContainerNotRunning("stopped"), EngineRefused("no answer")])
def test_an_engine_that_does_not_run_it_or_does_not_say_is_no_objection(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(registry, "engine_named", inspecting(failing(error)))
    assert cut_off.runs_again(begun(engine="runc")) is None


def test_a_new_init_is_seen_and_the_old_one_is_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch, child: Child
) -> None:
    monkeypatch.setattr(registry, "engine_named", inspecting(lambda: child.pid))
    assert cut_off.runs_again(begun(engine="runc")) == child.pid
    known = process_record(child.pid)
    for later in (0, 1):  # the init itself, and an older process of the engine's
        record = ProcessRecord(known.pid + later, known.start_ticks + later)
        before = begun(engine="runc", init=record, boot_id=proc.boot_id())
        assert cut_off.runs_again(before) is None
    store = SimpleNamespace(pid_of={"c0ffee": child.pid}.get)
    monkeypatch.setattr(cut_off, "STORES", {"podman": store})
    assert cut_off.runs_again(begun()) == child.pid
    assert cut_off.life_on_source(begun()) is Life.ANEW
    child.end()
    assert cut_off.runs_again(begun()) is None
    assert cut_off.life_on_source(begun()) is Life.DEAD
