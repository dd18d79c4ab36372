"""Tests of migrate/guardian/watch.py: who watches a real coordinator, and when it takes over.

tests/integration kills and stops real coordinators with real containers.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.host import lock, ram_directory
from migrate.agent.control import ABORT_PROVED, GO, Outcome
from migrate.guardian import takeover
from migrate.guardian.handle import Guardian, in_ns
from migrate.guardian.takeover import TAKEN_OVER
from migrate.guardian.watch import APPROACH_S
from migrate.journal import book
from tests.unit.helpers.apart import TIMEOUT_S, Apart, soon
from tests.unit.helpers.begun import ID
from tests.unit.migrate.guardian.scene import NO_FRAMES, Scene, StandIn, end, kept

#: The time in which the container must run again, in tests in which it does not.
SOON_S = 0.05
#: The same, in tests in which it does, on a busy machine, too.
IN_TIME_S = 0.2
#: What is done for a container that was killed.
FORWARD = ["links down", GO, "monitor ended"]


def begin(scene: Scene, *states: str) -> Callable[[Guardian], None]:
    """Return the act of a coordinator that begins its journal and enters states."""
    return lambda guardian: guardian.begin(scene.journal(*states))


def test_before_the_migration_has_begun_there_is_nothing_to_end(scene: Scene) -> None:
    coordinator = scene.coordinator(lambda _: None)
    coordinator.kill()
    assert coordinator.guardian_ended()
    assert scene.done() == []
    assert book.listed() == []


@pytest.mark.parametrize("state", ["planned", "armed", "frozen", "held", "killing"])
def test_the_guardian_of_a_coordinator_that_died_rolls_back(scene: Scene, state: str) -> None:
    """The target is told: it may hold a copy, or wait for the source."""
    coordinator = scene.coordinator(begin(scene, state))
    coordinator.kill()
    assert coordinator.guardian_ended()
    assert scene.done() == [ABORT_PROVED]
    assert end() == ("rolled back", TAKEN_OVER)


@pytest.mark.parametrize("state", ["killing", "killed"])
def test_the_guardian_has_the_target_run_a_container_that_was_killed(
    scene: Scene, init: Apart, state: str
) -> None:
    """The link of the source goes down before that of the target comes up."""
    coordinator = scene.coordinator(begin(scene, state))
    init.kill()
    coordinator.kill()
    assert coordinator.guardian_ended()
    assert scene.done() == FORWARD
    assert end() == ("done", TAKEN_OVER)


def test_a_target_that_runs_the_container_is_told_nothing(scene: Scene, init: Apart) -> None:
    coordinator = scene.coordinator(begin(scene, "killed", "resumed"))
    init.kill()
    coordinator.kill()
    assert coordinator.guardian_ended()
    assert scene.done() == ["monitor ended"]
    assert end() == ("done", TAKEN_OVER)


def test_the_target_is_asked_until_it_obeys(scene: Scene, init: Apart) -> None:
    scene.outcomes = (None, Outcome.FAILED, Outcome.NOBODY, Outcome.OK)
    coordinator = scene.coordinator(begin(scene, "killed"))
    init.kill()
    coordinator.kill()
    assert coordinator.guardian_ended()
    assert scene.done() == [
        *("links down", "not reached", "end recorded"),
        *("links down", GO) * 3,
        "monitor ended",
    ]
    assert end()[0] == "done"


@pytest.mark.parametrize("hangs", [lambda: os.kill(os.getpid(), signal.SIGSTOP), signal.pause])
def test_a_coordinator_that_hangs_while_the_container_is_frozen_is_killed(
    scene: Scene, hangs: Callable[[], object]
) -> None:
    def act(guardian: Guardian) -> None:
        guardian.begin(scene.journal("frozen"))
        guardian.expect(in_ns(SOON_S))
        hangs()

    coordinator = scene.coordinator(act, hangs=True)
    assert coordinator.exit_code() == -signal.SIGKILL
    assert coordinator.guardian_ended()
    assert scene.done() == [ABORT_PROVED]
    assert end() == ("rolled back", TAKEN_OVER)


def test_a_coordinator_may_hang_while_the_container_runs(scene: Scene) -> None:
    def act(guardian: Guardian) -> None:
        guardian.begin(scene.journal("frozen"))
        guardian.expect(in_ns(IN_TIME_S))
        guardian.freed()

    coordinator = scene.coordinator(act)
    coordinator.stop()
    assert coordinator.lives(for_s=1.5 * IN_TIME_S)
    assert coordinator.guardian_lives()
    coordinator.go_on()
    coordinator.leave()
    assert coordinator.exit_code() == 0
    assert scene.done() == []


def test_a_later_time_takes_the_place_of_an_earlier_one(scene: Scene) -> None:
    def act(guardian: Guardian) -> None:
        guardian.begin(scene.journal("killed"))
        guardian.expect(in_ns(IN_TIME_S))
        guardian.expect(in_ns(TIMEOUT_S))

    coordinator = scene.coordinator(act)
    assert coordinator.lives(for_s=1.5 * IN_TIME_S)
    coordinator.leave()
    assert coordinator.exit_code() == 0


def frozen(scene: Scene, criu: StandIn) -> Callable[[Guardian], None]:
    """Return the act of a coordinator that has had CRIU freeze the container."""

    def act(guardian: Guardian) -> None:
        guardian.begin(scene.journal("frozen"))
        guardian.expect(in_ns(TIMEOUT_S), criu.conversation)

    return act


@pytest.mark.parametrize("stopped", [False, True])
def test_criu_thaws_the_container_of_a_coordinator_that_died(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    """Its peer is gone. A CRIU that somebody has stopped is made to go on."""
    monkeypatch.setattr(takeover, "THAW_S", TIMEOUT_S)  # a busy machine is slow to start it
    criu = scene.criu()
    coordinator = scene.coordinator(frozen(scene, criu))
    if stopped:
        criu.stop()
    coordinator.kill()
    assert criu.exit_code() == 0
    assert coordinator.guardian_ended()
    assert end() == ("rolled back", TAKEN_OVER)


def test_a_criu_that_does_not_end_is_killed(scene: Scene) -> None:
    criu = scene.criu(deaf=True)
    coordinator = scene.coordinator(frozen(scene, criu))
    coordinator.kill()
    assert criu.exit_code() == -signal.SIGKILL
    assert coordinator.guardian_ended()
    assert end() == ("rolled back", f"{TAKEN_OVER}; CRIU did not end, and was killed")


def about_to_kill(scene: Scene, criu: StandIn) -> Callable[[Guardian], None]:
    """Return the act of a coordinator that is about to kill the container."""

    def act(guardian: Guardian) -> None:
        guardian.begin(journal := scene.journal("held"))
        guardian.expect(in_ns(TIMEOUT_S), criu.conversation)
        guardian.killing(criu.conversation, kept(b"first", b"second"))
        journal.entered("killing")

    return act


def test_criu_undoes_nothing_for_a_container_that_was_killed(scene: Scene, init: Apart) -> None:
    """It does not see that its peer is gone, because the guardian has the conversation, too.

    The target gets the frames that came for the container meanwhile.
    """
    criu = scene.criu()
    coordinator = scene.coordinator(about_to_kill(scene, criu))
    init.kill()
    coordinator.kill()
    assert criu.exit_code() == -signal.SIGKILL
    assert coordinator.guardian_ended()
    assert scene.done() == ["links down", GO, "frame 0 first", "frame 0 second", "monitor ended"]


def killed(scene: Scene, criu: StandIn, left_s: float) -> Callable[[Guardian], None]:
    """Return the act of a coordinator with so much time left when it has killed the container."""

    def act(guardian: Guardian) -> None:
        guardian.begin(scene.journal("killed"))
        guardian.expect(in_ns(left_s), criu.conversation)
        guardian.killing(criu.conversation, NO_FRAMES)
        os.kill(scene.init, signal.SIGKILL)

    return act


def test_the_way_to_the_target_is_made_before_the_time_is_over(scene: Scene) -> None:
    """If the coordinator is in time after all, nothing is said there."""
    coordinator = scene.coordinator(killed(scene, scene.criu(), APPROACH_S))
    soon(lambda: scene.connections() == 1)
    assert coordinator.lives(for_s=0)
    coordinator.leave()
    assert coordinator.exit_code() == 0
    assert coordinator.guardian_ended()
    assert scene.done() == []


def test_that_way_is_taken_when_the_time_is_over(scene: Scene) -> None:
    coordinator = scene.coordinator(killed(scene, scene.criu(), SOON_S))
    assert coordinator.exit_code() == -signal.SIGKILL
    assert coordinator.guardian_ended()
    assert scene.done() == FORWARD
    assert scene.connections() == 1


def test_no_way_is_made_to_a_target_that_need_not_be_told_in_time(scene: Scene) -> None:
    """Before the kill the container is thawed first, whatever the target does."""
    coordinator = scene.coordinator(frozen(scene, scene.criu()))
    assert coordinator.lives(for_s=IN_TIME_S)
    coordinator.leave()
    assert coordinator.exit_code() == 0
    assert scene.connections() == 0


def test_criu_thaws_a_container_that_was_not_killed_after_all(scene: Scene) -> None:
    criu = scene.criu()
    coordinator = scene.coordinator(about_to_kill(scene, criu))
    coordinator.kill()
    assert criu.exit_code() == 0
    assert coordinator.guardian_ended()
    assert scene.done() == [ABORT_PROVED]
    assert end() == ("rolled back", TAKEN_OVER)


def test_the_guardian_has_the_locks_of_the_container_as_long_as_it_is_at_it(
    scene: Scene, tmp_path: Path
) -> None:
    def taken() -> bool:
        with (tmp_path / "lock").open() as again:
            try:
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    scene.outcomes = (None,)
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        scene.locks.append(held.fileno())
        coordinator = scene.coordinator(begin(scene, "held"))
    coordinator.kill()
    soon(lambda: "not reached" in scene.done())
    assert taken()
    assert book.listed()[0].owned
    coordinator.kill_guardian()
    assert not taken()
    assert not book.listed()[0].owned
    assert end() == ("held", None)


def test_the_guardian_leaves_no_lock_and_no_directory_behind(scene: Scene) -> None:
    """The coordinator's own are released before they are looked for."""
    directory = ram_directory.RUN / ID
    directory.mkdir(parents=True)
    lock.DIRECTORY.mkdir()
    with (lock.DIRECTORY / "container").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        scene.locks.append(held.fileno())
        coordinator = scene.coordinator(begin(scene, "held"))
    coordinator.kill()
    assert coordinator.guardian_ended()
    assert end() == ("rolled back", TAKEN_OVER)
    assert list(lock.DIRECTORY.iterdir()) == []
    assert not directory.exists()
