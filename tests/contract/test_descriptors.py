"""Descriptors that go along with messages."""

from __future__ import annotations

from pathlib import Path

from tests.contract.harness import (
    LIMIT_S,
    Scene,
    dump_to_images,
    open_descriptors,
    release,
)


def test_descriptors_go_along_with_a_request(fake_scene: Scene, tmp_path: Path) -> None:
    """Only the fake CRIU can tell, as the real one takes none with these requests."""
    attached = tmp_path / "attached"
    attached.touch()
    with fake_scene.dump_role():
        runtime = fake_scene.runtime("VERSION", attach=str(attached))
        assert runtime.finish()[-2]["success"]
    assert fake_scene.peer.recorded("fds") == [[str(attached)]]


def test_descriptors_of_a_refused_request_are_closed(fake_scene: Scene, tmp_path: Path) -> None:
    attached = tmp_path / "attached"
    attached.touch()
    with fake_scene.dump_role() as role:
        runtime = fake_scene.dump_of(fake_scene.task(), attach=str(attached))
        role.request_gate.wait_reached(LIMIT_S)
        role.refuse()
        runtime.finish()
        role.wait_over()
    assert str(attached) not in open_descriptors().values()


def test_descriptors_come_along_with_a_notification(fake_scene: Scene) -> None:
    """The orphan-pts-master notification has the terminal of a container for runc."""
    task = fake_scene.task()
    dump_to_images(fake_scene, task)
    with fake_scene.restore_role() as role:
        runtime = fake_scene.runtime("RESTORE", opts={"orphan_pts_master": True})
        release(role)
        role.done_gate.open()
        runtime.finish()
        [told] = [
            event for event in runtime.named("notify") if event["script"] == "orphan-pts-master"
        ]
        assert [Path(name).name for name in told["fds"]] == ["ptmx"]
        task.pid = role.pid
        task.check_runs()
