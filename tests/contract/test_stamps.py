"""The stamps of a conversation: the name and the time of each message."""

from __future__ import annotations

from tests.contract.harness import (
    DUMP_NOTIFICATIONS,
    RESTORE_NOTIFICATIONS,
    Dump,
    Restore,
    Scene,
    release,
)


def with_answers(notifications: list[str]) -> list[str]:
    return [name for script in notifications for name in (script, "go on")]


def check_stamps(role: Dump | Restore, kind: str, notifications: list[str]) -> None:
    expected = [f"request {kind}", *with_answers(notifications), f"response {kind} ok", "end"]
    assert [stamp.name for stamp in role.stamps] == expected
    times = [stamp.at_ns for stamp in role.stamps]
    assert times == sorted(times)


def test_every_message_is_stamped_in_order(scene: Scene) -> None:
    with scene.dump_role() as dump:
        runtime = scene.dump_of(task := scene.task())
        release(dump)
        dump.done_gate.open()
        runtime.finish()
        dump.wait_over()
    check_stamps(dump, "DUMP", DUMP_NOTIFICATIONS)
    task.wait_killed()
    with scene.restore_role() as restore:
        runtime = scene.runtime("RESTORE")
        release(restore)
        restore.done_gate.open()
        runtime.finish()
        restore.wait_over()
    check_stamps(restore, "RESTORE", RESTORE_NOTIFICATIONS)
    task.pid = restore.pid
    task.check_runs()
