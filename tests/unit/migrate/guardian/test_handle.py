"""Tests of migrate/guardian/handle.py: a guardian is no burden to its coordinator."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Never

import pytest

from checkpoint.host import detached, proc, processes
from migrate.agent.control import GO
from migrate.guardian import handle
from migrate.guardian.handle import Guardian, in_ns
from migrate.guardian.takeover import TAKEN_OVER
from tests.unit.helpers.apart import TIMEOUT_S, soon
from tests.unit.helpers.descendants import Descendants
from tests.unit.helpers.forked import forked
from tests.unit.migrate.guardian.scene import NO_FRAMES, Scene, end


def with_guardian(scene: Scene, act: Callable[[Guardian], object]) -> None:
    """Have a process act as a coordinator. Nothing of the guardian is left to it afterwards."""

    def coordinator() -> None:
        before = proc.descriptors("self")
        with scene.journal("frozen") as journal:
            with scene.guardian() as guardian:
                guardian.begin(journal)
                act(guardian)
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
        assert proc.descriptors("self") == before

    forked(coordinator)


def test_a_guardian_that_is_released_ends_and_has_done_nothing(scene: Scene) -> None:
    with_guardian(scene, lambda _: None)
    assert scene.done() == []
    assert end() == ("frozen", None)


def test_a_guardian_is_released_by_a_coordinator_that_fails(scene: Scene) -> None:
    def coordinator() -> None:
        with pytest.raises(KeyError), scene.guardian() as guardian:
            guardian.begin(scene.journal("frozen"))
            raise KeyError("no luck")
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    forked(coordinator)
    assert scene.done() == []
    assert end() == ("frozen", None)


def test_a_guardian_that_takes_over_outlives_its_coordinator(scene: Scene) -> None:
    """The coordinator does not wait for it."""

    def act(guardian: Guardian) -> None:
        guardian.begin(scene.journal("killed"))
        os.kill(scene.init, signal.SIGKILL)
        soon(lambda: processes.has_ended(scene.init))
        guardian.take_over()

    coordinator = scene.coordinator(act)
    assert coordinator.guardian_ended()
    assert coordinator.lives()
    assert scene.done() == ["links down", GO, "monitor ended"]
    assert end() == ("done", TAKEN_OVER)
    coordinator.leave()
    assert coordinator.exit_code() == 0


def test_signals_for_the_coordinator_are_not_for_the_guardian(scene: Scene) -> None:
    """A terminal sends them to all processes of a group, or of a session."""
    coordinator = scene.coordinator(lambda guardian: guardian.begin(scene.journal("armed")))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        coordinator.signal_guardian(number)
    assert coordinator.guardian_lives()
    coordinator.kill()
    assert coordinator.guardian_ended()
    assert end() == ("rolled back", TAKEN_OVER)


def test_the_guardian_holds_what_it_needs_and_no_more(scene: Scene) -> None:
    standard, told_on, coordinator, lock = 3, 1, 1, 1

    def act(guardian: Guardian) -> None:
        wanted = standard + told_on + coordinator + lock
        soon(lambda: len(proc.descriptors(guardian.pid)) == wanted)

    null = os.open(os.devnull, os.O_RDONLY)
    scene.locks.append(null)
    scene.coordinator(act).leave()
    os.close(null)


def tell_all(scene: Scene) -> Callable[[Guardian], None]:
    """Return the act of a coordinator that says every word but the last ones."""
    criu = scene.criu()

    def act(guardian: Guardian) -> None:
        guardian.expect(in_ns(TIMEOUT_S), criu.conversation)
        guardian.killing(criu.conversation, NO_FRAMES)
        guardian.freed()

    return act


def test_a_guardian_that_was_killed_is_missed_by_nobody(scene: Scene) -> None:
    told = tell_all(scene)

    def act(guardian: Guardian) -> None:
        os.kill(guardian.pid, signal.SIGKILL)
        os.waitid(os.P_PID, guardian.pid, os.WEXITED | os.WNOWAIT)
        told(guardian)

    with_guardian(scene, act)
    assert scene.done() == []


@pytest.mark.parametrize("words", [0, 2000])
def test_a_guardian_that_was_stopped_keeps_nobody_waiting(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, words: int
) -> None:
    """At the end it is killed, or when its socket has no room for another word."""
    monkeypatch.setattr(handle, "PATIENCE_S", 0.05)
    told = tell_all(scene)

    def act(guardian: Guardian) -> None:
        os.kill(guardian.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, guardian.pid, os.WSTOPPED | os.WNOWAIT)
        told(guardian)
        for _ in range(words):
            guardian.freed()

    with_guardian(scene, act)
    assert scene.done() == []


def test_the_time_that_is_left_is_known_until_the_container_runs(scene: Scene) -> None:
    def act(guardian: Guardian) -> None:
        assert guardian.left_s() is None
        guardian.expect(in_ns(TIMEOUT_S))
        first, second = guardian.left_s(), guardian.left_s()
        assert first is not None
        assert second is not None
        assert TIMEOUT_S >= first >= second > 0
        guardian.freed()
        assert guardian.left_s() is None

    with_guardian(scene, act)


def test_no_time_is_left_once_it_is_over(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle, "GRACE_S", TIMEOUT_S)

    def act(guardian: Guardian) -> None:
        guardian.expect(in_ns(-1))
        assert guardian.left_s() == 0

    with_guardian(scene, act)


def test_a_guardian_that_cannot_be_forked_leaves_nothing_open(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Never:
        raise BlockingIOError("too many processes")

    monkeypatch.setattr(detached, "fork_detached", fails)
    before, started = proc.descriptors("self"), Descendants()
    with pytest.raises(BlockingIOError):
        scene.guardian()
    assert proc.descriptors("self") == before
    assert not started.new()
