"""Tests of migrate/guardian/takeover.py: what is left of a migration is ended by what is seen."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Never

import pytest

from checkpoint.criu import rescue
from checkpoint.errors import CommandFailed
from checkpoint.files.made import MadeDirectory
from migrate.agent.control import ABORT_PROVED, GO, Outcome
from migrate.decisions.takeover import Act, Life, Told
from migrate.guardian import takeover
from migrate.guardian.handle import Guardian
from migrate.guardian.takeover import TAKEN_OVER, Criu, Remains, Takeover, Target
from migrate.journal import book, cut_off
from migrate.journal.book import MigrationJournal
from migrate.network.source import SourceFrames
from tests.unit.helpers.apart import Apart
from tests.unit.helpers.begun import ID
from tests.unit.migrate.guardian.scene import Made, Scene, StandIn, add, end

#: A target that does not answer is tried again for so long, in tests in which it never does.
IMPATIENCE_S = 0.02


class Scripted(Target):
    """A target that says the next of `replies` to each word, and the last of them for ever.

    `meanwhile` is called at each word.
    """

    def __init__(
        self, log: Path, *replies: Told, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        self._log, self._replies, self._meanwhile = log, list(replies), meanwhile

    def say(self, word: str, frames: Sequence[tuple[int, bytes]] = ()) -> Told:
        add(self._log, " ".join([word, *(frame.decode() for _, frame in frames)]))
        self._meanwhile()
        return self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]


class Came(SourceFrames):
    """Frames that came for the container, and can be taken once."""

    def __init__(self, *frames: bytes) -> None:
        self._came = list(enumerate(frames))

    def take(self) -> list[tuple[int, bytes]]:
        taken, self._came = self._came, []
        return taken


def fail(*_: object) -> Never:
    raise OSError("it is busy")


class Ended:
    """The end of a migration that was cut off in a state, and all that was done for it."""

    def __init__(self, scene: Scene, log: Path) -> None:
        self._scene, self._log = scene, log

    def run(
        self,
        state: str | MigrationJournal,
        *replies: Told,
        source: Remains | None = None,
        criu: Criu | None = None,
        frames: SourceFrames | None = None,
        patience_s: float = takeover.PATIENCE_S,
    ) -> tuple[Act, list[str]]:
        """End the migration, and return (the last act, what was done and said)."""
        journal = self._scene.journal_left(state) if isinstance(state, str) else state
        with journal:
            source = source or self._scene.left()
            target = Scripted(self._log, *(replies or (Told.OBEYED,)))
            ending = Takeover(
                journal, source, criu or Criu(), target, frames=frames, patience_s=patience_s
            )
            return ending.run(), self._scene.done()


@pytest.fixture
def ended(scene: Scene, tmp_path: Path) -> Ended:
    return Ended(scene, tmp_path / "done")


@pytest.mark.parametrize(
    "state", ["planned", "prepared", "armed", "frozen", "held", "killing", "rolling back"]
)
def test_a_container_that_lives_stays(ended: Ended, state: str) -> None:
    """The target is told: it may hold a copy, or wait for the source."""
    assert ended.run(state) == (Act.END_BACK, [ABORT_PROVED])
    assert end() == ("rolled back", TAKEN_OVER)


@pytest.mark.parametrize("state", ["armed", "held"])
def test_a_container_that_ended_by_itself_is_not_run_elsewhere(
    ended: Ended, init: Apart, scene: Scene, state: str
) -> None:
    journal = scene.journal_left(state)
    init.kill()
    act, done = ended.run(journal)
    assert act is Act.END_BACK
    assert GO not in done
    assert end() == ("rolled back", TAKEN_OVER)


def test_what_was_made_on_the_source_is_undone(ended: Ended, scene: Scene, made: Made) -> None:
    ended.run(scene.journal_left("armed", enter=made.enter))
    assert made.there() == (False, True)
    state, said = end()
    assert state == "rolled back"
    assert said is not None
    assert said.startswith(f"{TAKEN_OVER}; the move {ID}")
    assert str(made.stays) in said


def test_the_target_is_told_until_it_has_dropped_its_copy(ended: Ended) -> None:
    """It has dropped it if it has none."""
    replies = (Told.UNREACHED, Told.REFUSED, Told.ABSENT)
    assert ended.run("held", *replies) == (Act.END_BACK, [ABORT_PROVED] * 3)
    assert end() == ("rolled back", TAKEN_OVER)


def test_what_cannot_be_undone_now_is_tried_again_later(
    ended: Ended, scene: Scene, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target drops its copy all the same."""
    with monkeypatch.context() as broken:
        broken.setattr(MadeDirectory, "remove", fail)
        journal = scene.journal_left("held", enter=made.enter)
        assert ended.run(journal) == (Act.END_BACK, [ABORT_PROVED])
    assert end() == ("held", None)
    assert made.there() == (True, True)
    ended.run(MigrationJournal.taken_up(*book.listed()))
    assert end()[0] == "rolled back"
    assert made.there() == (False, True)


@pytest.mark.parametrize("reply", [Told.OBEYED, Told.UNREACHED])
def test_a_container_that_ran_on_and_ended_then_is_not_run_elsewhere(
    scene: Scene, init: Apart, tmp_path: Path, reply: Told
) -> None:
    """The target may have been told nothing yet: its copy is one of an earlier time."""
    target = Scripted(tmp_path / "done", reply, Told.OBEYED, meanwhile=init.kill)
    with scene.journal_left("killing") as journal:
        assert Takeover(journal, scene.left(), Criu(), target).run() is Act.END_BACK
    assert set(scene.done()) == {ABORT_PROVED}
    assert end() == ("rolled back", TAKEN_OVER)


@pytest.fixture
def killed(scene: Scene, init: Apart, made: Made) -> MigrationJournal:
    """Return the journal of a migration whose container was killed."""
    journal = scene.journal_left("killed", enter=made.enter)
    init.kill()
    return journal


def test_a_container_that_was_killed_is_run_by_the_target(
    ended: Ended, killed: MigrationJournal, made: Made
) -> None:
    """What was made for good stays."""
    assert ended.run(killed) == (Act.FINISH, ["links down", GO, "monitor ended"])
    assert made.there() == (True, False)
    assert end() == ("done", TAKEN_OVER)


def test_the_target_is_told_until_it_runs_the_container(
    ended: Ended, killed: MigrationJournal
) -> None:
    """Meanwhile the source's engine knows that the container has ended."""
    replies = (Told.UNREACHED, Told.REFUSED, Told.ABSENT, Told.OBEYED)
    assert ended.run(killed, *replies) == (
        Act.FINISH,
        ["links down", GO, "end recorded", *["links down", GO] * 3, "monitor ended"],
    )
    assert end() == ("done", TAKEN_OVER)


def test_the_frames_that_came_in_the_freeze_go_with_each_go(
    ended: Ended, killed: MigrationJournal
) -> None:
    """The target may not have got them with an earlier one."""
    frames = Came(b"first", b"second")
    _, done = ended.run(killed, Told.UNREACHED, Told.OBEYED, frames=frames)
    assert [each for each in done if each.startswith(GO)] == [f"{GO} first second"] * 2


def test_a_copy_that_is_dropped_gets_no_frames(ended: Ended) -> None:
    assert ended.run("killing", frames=Came(b"first")) == (Act.END_BACK, [ABORT_PROVED])


def test_that_the_target_runs_it_is_known_before_anything_is_removed(
    ended: Ended, scene: Scene, killed: MigrationJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever goes on after another interruption need not ask."""
    seen: list[str | None] = []
    source = scene.left()
    monkeypatch.setattr(source, "end_monitor", lambda: seen.append(killed.account().state))
    ended.run(killed, source=source)
    assert seen == ["resumed"]


def test_a_container_that_the_target_runs_is_only_cleaned_up_after(
    ended: Ended, scene: Scene, made: Made
) -> None:
    """Even if a process of it seems to live."""
    journal = scene.journal_left("killed", "resumed", enter=made.enter)
    assert ended.run(journal, Told.UNREACHED) == (Act.FINISH, ["monitor ended"])
    assert made.there() == (True, False)
    assert end() == ("done", TAKEN_OVER)


@pytest.mark.parametrize("what", ["a directory", "the monitor"])
def test_what_cannot_be_removed_now_is_tried_again_later(
    ended: Ended, scene: Scene, killed: MigrationJournal, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "a directory":
        monkeypatch.setattr(MadeDirectory, "remove", fail)
        source = scene.left()
    else:
        source = scene.left("monitor ended")
    act, done = ended.run(killed, source=source)
    assert (act, done[-1]) == (Act.FINISH, "monitor ended")
    assert end() == ("resumed", None)


@pytest.mark.parametrize("reply", [Told.UNREACHED, Told.REFUSED, Told.ABSENT])
def test_a_target_that_does_not_obey_is_left_to_whoever_asks_later(
    ended: Ended, killed: MigrationJournal, made: Made, reply: Told
) -> None:
    act, done = ended.run(killed, reply, patience_s=IMPATIENCE_S)
    assert act is Act.LEAVE
    assert done.count(GO) > 1
    assert made.there() == (True, True)
    assert end() == ("killed", None)


def test_a_container_that_the_target_has_lost_is_given_up_with_its_files_kept(
    ended: Ended, killed: MigrationJournal, made: Made
) -> None:
    """What was changed on the source is changed back: its restart policy, for example."""
    assert ended.run(killed, Told.LOST) == (Act.GIVE_UP, ["links down", GO, "end recorded"])
    assert made.there() == (False, True)
    assert end()[0] == takeover.LOST


@pytest.mark.parametrize("reply", [Told.UNREACHED, Told.REFUSED])
def test_a_copy_that_may_be_held_is_left_to_whoever_asks_later(ended: Ended, reply: Told) -> None:
    act, done = ended.run("held", reply, patience_s=IMPATIENCE_S)
    assert act is Act.LEAVE
    assert set(done) == {ABORT_PROVED}
    assert end()[1] is None


def test_without_patience_the_target_is_asked_once(ended: Ended) -> None:
    assert ended.run("held", Told.UNREACHED, patience_s=0) == (Act.LEAVE, [ABORT_PROVED])


def test_a_container_that_was_sent_sigkill_is_waited_for(
    ended: Ended, killed: MigrationJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [Life.DYING, Life.DYING, Life.DEAD]
    monkeypatch.setattr(cut_off, "life", lambda _: seen.pop(0) if len(seen) > 1 else seen[0])
    assert ended.run(killed)[0] is Act.FINISH
    assert seen == [Life.DEAD]


def test_no_failure_on_the_source_keeps_the_target_from_its_go(
    ended: Ended, scene: Scene, killed: MigrationJournal
) -> None:
    source = scene.left("links down", "end recorded")
    assert ended.run(killed, Told.UNREACHED, Told.OBEYED, source=source) == (
        Act.FINISH,
        ["links down", GO, "end recorded", "links down", GO, "monitor ended"],
    )
    assert end() == (
        "done",
        f"{TAKEN_OVER}; the container's links on the source were not taken down: no links down"
        "; the source's engine may start the container again: no end recorded"
        "; the container's links on the source were not taken down: no links down",
    )


def held_by(criu: StandIn) -> Criu:
    """Return what a guardian has of CRIU, once it is the only one that has it."""
    conversation = criu.conversation
    kept = Criu(pidfd=os.dup(conversation.criu_pidfd), socket=conversation.criu.dup())
    criu.let_go()
    return kept


@pytest.mark.parametrize("stopped", [False, True])
def test_criu_thaws_a_container_that_lives(ended: Ended, scene: Scene, stopped: bool) -> None:
    """A CRIU that somebody has stopped goes on first."""
    criu = scene.criu()
    if stopped:
        criu.stop()
    kept = held_by(criu)
    assert ended.run("frozen", criu=kept) == (Act.END_BACK, [ABORT_PROVED])
    assert criu.exit_code() == 0
    assert (kept.pidfd, kept.socket) == (-1, None)
    assert end() == ("rolled back", TAKEN_OVER)


def test_a_criu_that_does_not_thaw_is_killed_and_the_network_unlocked(
    ended: Ended, scene: Scene, init: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlocked: list[list[int]] = []
    monkeypatch.setattr(takeover, "THAW_S", 0.01)
    monkeypatch.setattr(rescue, "unlock", lambda pids: unlocked.append(list(pids)))
    criu = scene.criu(deaf=True)
    assert ended.run("frozen", criu=held_by(criu))[0] is Act.END_BACK
    assert criu.exit_code() == -signal.SIGKILL
    assert unlocked == [[init.pid]]
    assert end() == ("rolled back", f"{TAKEN_OVER}; CRIU did not end, and was killed")


def test_a_network_that_cannot_be_unlocked_is_told(
    ended: Ended, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> bool:
        raise CommandFailed("nft", 1, "no luck")

    monkeypatch.setattr(takeover, "THAW_S", 0.01)
    monkeypatch.setattr(rescue, "unlock", fails)
    kept = held_by(scene.criu(deaf=True))
    assert ended.run("frozen", criu=kept) == (Act.END_BACK, [ABORT_PROVED])
    assert kept.pidfd == -1
    state, said = end()
    assert state == "rolled back"
    assert said is not None
    assert "the container's network may still be locked: " in said


@pytest.mark.parametrize("stopped", [False, True])
def test_criu_is_killed_before_it_can_undo_anything_for_a_dead_container(
    ended: Ended, scene: Scene, killed: MigrationJournal, stopped: bool
) -> None:
    """It would end by itself if its peer was gone first."""
    criu = scene.criu()
    if stopped:
        criu.stop()
    kept = held_by(criu)
    assert ended.run(killed, criu=kept)[0] is Act.FINISH
    assert criu.exit_code() == -signal.SIGKILL
    assert (kept.pidfd, kept.socket) == (-1, None)


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome.OK, Told.OBEYED),
        (Outcome.REFUSED, Told.REFUSED),
        (Outcome.FAILED, Told.REFUSED),
        (Outcome.NOBODY, Told.ABSENT),
        (Outcome.LOST, Told.LOST),
        (None, Told.UNREACHED),
    ],
)
def test_a_word_is_said_by_an_agent_of_its_own(
    scene: Scene, outcome: Outcome | None, told: Told
) -> None:
    notes: list[str] = []
    target = Target(scene.far(outcome).connect, ID, notes.append)
    assert target.say(GO) is told
    assert scene.done() == ["not reached" if outcome is None else GO]
    assert bool(notes) is (told is not Told.OBEYED)


@pytest.mark.parametrize(
    ("state", "outcome"), [("resumed", "done"), ("rolling back", "rolled back")]
)
def test_what_has_ended_is_not_ended_again(
    scene: Scene, made: Made, init: Apart, state: str, outcome: str
) -> None:
    """The coordinator is killed after it has ended the journal, and before it releases."""

    def act(guardian: Guardian) -> None:
        journal = scene.journal(state)
        guardian.begin(journal)
        made.enter(journal)
        journal.end(outcome)

    coordinator = scene.coordinator(act)
    if outcome == "done":
        init.kill()
    coordinator.kill()
    assert coordinator.guardian_ended()
    assert made.there()[0]
    assert end()[0] == outcome
