"""A dump that is held at its request or at post-dump, and then goes on, is refused or is buried."""

from __future__ import annotations

import os
import signal

from tests.contract.harness import (
    DUMP_NOTIFICATIONS,
    LIMIT_S,
    Peer,
    Scene,
    release,
)


def test_a_dump_held_at_its_request_has_not_begun(scene: Scene, peer: Peer) -> None:
    task = scene.task()
    with scene.dump_role() as role:
        runtime = scene.dump_of(task)
        role.request_gate.wait_reached(LIMIT_S)
        task.check_runs()
        assert list(scene.images.iterdir()) == []
        if not peer.real:
            assert peer.recorded("request") == []
        role.request_gate.open()
        role.done_gate.wait_reached(LIMIT_S)
        assert (scene.images / "dump.log").exists()
        role.done_gate.open()
        assert runtime.finish()[-2]["success"]
    task.wait_killed()


def test_a_dump_refused_at_its_request_does_nothing(scene: Scene, peer: Peer) -> None:
    task = scene.task()
    with scene.dump_role() as role:
        runtime = scene.dump_of(task)
        role.request_gate.wait_reached(LIMIT_S)
        role.refuse()
        runtime.finish()
        role.wait_over()
    assert runtime.named("eof")
    assert not runtime.named("notify")
    assert list(scene.images.iterdir()) == []
    task.check_runs()
    if not peer.real:
        assert peer.recorded("request") == []


def test_a_dump_held_at_post_dump_leaves_the_task_frozen(scene: Scene) -> None:
    task = scene.task()
    with scene.dump_role() as role:
        runtime = scene.dump_of(task)
        release(role)
        assert task.frozen()
        runtime.wait_for("notify", script="query-ext-files")
        role.done_gate.open()
        runtime.finish()
        assert [event["script"] for event in runtime.named("notify")] == DUMP_NOTIFICATIONS
        assert runtime.named("response")[0]["success"]
    task.wait_killed()


def test_a_dump_refused_at_post_dump_thaws_the_task(scene: Scene) -> None:
    task = scene.task()
    pids = task.tree()
    with scene.dump_role() as role:
        runtime = scene.dump_of(task)
        release(role)
        assert task.frozen()
        role.refuse()
        runtime.finish()
        role.wait_over()
    [answer] = runtime.named("response")
    assert answer["kind"] == "DUMP"
    assert not answer["success"]
    assert "post-dump" not in [event["script"] for event in runtime.named("notify")]
    assert task.tree() == pids
    task.check_runs()


def test_a_dump_that_was_refused_can_be_tried_again(scene: Scene) -> None:
    task = scene.task()
    for attempt in range(2):
        for path in scene.images.iterdir():
            path.unlink()
        with scene.dump_role() as role:
            runtime = scene.dump_of(task)
            release(role)
            role.done_gate.open() if attempt else role.refuse()
            runtime.finish()
            role.wait_over()
        assert runtime.named("response")[0]["success"] == bool(attempt)
    task.wait_killed()


def test_bury_ends_criu_without_an_answer(scene: Scene) -> None:
    task = scene.task()
    with scene.dump_role() as role:
        runtime = scene.dump_of(task)
        release(role)
        for pid in task.tree():
            os.kill(pid, signal.SIGKILL)
        role.bury()
        runtime.finish()
        role.wait_over()
    assert runtime.named("eof")
    assert not runtime.named("response")
    assert runtime.named("ended")[0]["status"] == -signal.SIGKILL
    task.wait_killed()


def test_bury_without_a_conversation_does_nothing(scene: Scene) -> None:
    with scene.dump_role() as role:
        runtime = scene.dump_of(scene.task())
        release(role)
        role.done_gate.open()
        runtime.finish()
        role.wait_over()
        role.bury()
