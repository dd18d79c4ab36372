"""A restore that is held at its request or at post-restore, and then goes on or is refused."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from checkpoint.errors import ConversationLost
from tests.contract.harness import (
    LIMIT_S,
    PAGE_SIZE,
    RESTORE_NOTIFICATIONS,
    Peer,
    Scene,
    dump_to_images,
    release,
    state_of,
    until,
)
from tests.fakes import task as task_program


def test_a_restore_is_held_twice_and_then_runs(scene: Scene, peer: Peer) -> None:
    task = scene.task()
    counter = dump_to_images(scene, task)
    with scene.restore_role() as role:
        runtime = scene.runtime("RESTORE")
        role.request_gate.wait_reached(LIMIT_S)
        assert not (scene.images / "restore.log").exists()
        role.request_gate.open()
        role.done_gate.wait_reached(LIMIT_S)
        assert state_of(role.pid)
        parent = Path(f"/proc/{role.pid}/stat").read_text().rpartition(")")[2].split()[1]
        assert int(parent) == runtime.process.pid, "rst_sibling"
        with pytest.raises(ConversationLost):
            role.wait_resumed(0)
        role.done_gate.open()
        role.wait_resumed(LIMIT_S)
        runtime.finish()
        assert [event["script"] for event in runtime.named("notify")] == RESTORE_NOTIFICATIONS
        assert runtime.named("response")[0]["pid"] == role.pid
        if peer.real:
            assert role.pid == task.pid
        task.pid = role.pid
        until(lambda: task.counter(role.pid) >= counter > 0, "the same counter")
        task.check_runs()
        assert task.memory(
            role.pid, task_program.REGION + 5 * PAGE_SIZE, PAGE_SIZE
        ) == task_program.pattern(5)


@pytest.mark.parametrize("who", ["criu_pid", "runtime_pid"])
def test_a_released_restore_goes_on_although_somebody_has_stopped_it(
    scene: Scene, who: str
) -> None:
    task = scene.task()
    dump_to_images(scene, task)
    with scene.restore_role() as role:
        runtime = scene.runtime("RESTORE")
        role.request_gate.wait_reached(LIMIT_S)
        role.request_gate.open()
        role.done_gate.wait_reached(LIMIT_S)
        stopped: int = getattr(role.conversation, who)
        os.kill(stopped, signal.SIGSTOP)
        until(lambda: "T" in state_of(stopped), "it to be stopped")
        role.done_gate.open()
        role.wait_resumed(LIMIT_S)
        runtime.finish()
        task.pid = role.pid
        task.check_runs()


def test_a_restore_refused_at_its_request_does_nothing(scene: Scene) -> None:
    task = scene.task()
    dump_to_images(scene, task)
    with scene.restore_role() as role:
        runtime = scene.runtime("RESTORE")
        role.request_gate.wait_reached(LIMIT_S)
        role.refuse()
        runtime.finish()
        role.wait_over()
    assert runtime.named("eof")
    assert not runtime.named("notify")
    assert not (scene.images / "restore.log").exists()


def test_a_restore_refused_at_post_restore_is_killed(scene: Scene) -> None:
    task = scene.task()
    dump_to_images(scene, task)
    with scene.restore_role() as role:
        runtime = scene.runtime("RESTORE")
        release(role)
        assert state_of(role.pid)
        role.refuse()
        runtime.finish()
        role.wait_over()
    assert not runtime.named("response")[0]["success"]
    assert "post-restore" not in [event["script"] for event in runtime.named("notify")]
    until(lambda: state_of(role.pid) == "", "the restored process to be gone")
