"""What passes through an interposer, unchanged or edited."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from pycriu import images as image_files

from checkpoint.criu.edits import Edits
from checkpoint.criu.page_server import PE_PARENT
from checkpoint.criu.parent import make_parent
from checkpoint.errors import ConversationLost
from tests import pagemaps
from tests.contract.harness import (
    LIMIT_S,
    PAGE_SIZE,
    Peer,
    Scene,
    open_descriptors,
    release,
)
from tests.fakes import task as task_program

IMAGES_FD_OF_THE_RUNTIME = 150


def inventory(scene: Scene) -> dict[str, Any]:
    with (scene.images / "inventory.img").open("rb") as file:
        entry: dict[str, Any] = image_files.load(file)["entries"][0]
    return entry


@pytest.mark.parametrize("kind", ["VERSION", "FEATURE_CHECK"])
def test_questions_and_answers_pass_unchanged(scene: Scene, kind: str) -> None:
    direct = scene.runtime(kind, interposed=False)
    direct.finish()
    with scene.dump_role():
        through = scene.runtime(kind)
        through.finish()
    [answer] = through.named("response")
    assert answer["kind"] == kind
    assert answer["success"]
    assert (
        answer["version"] >= [4, 0, 0]
        if kind == "VERSION"
        else answer["lazy_pages"] in (True, False)
    )
    assert through.named("response") == direct.named("response")
    assert through.named("ended") == direct.named("ended")


def test_criu_finds_directories_among_the_descriptors_of_the_runtime(
    scene: Scene, peer: Peer
) -> None:
    """The interposer has no such numbers. CRIU looks them up among the runtime's."""
    assert str(IMAGES_FD_OF_THE_RUNTIME) not in open_descriptors()
    with scene.dump_role() as role:
        runtime = scene.dump_of(scene.task())
        release(role)
        written = {path.name for path in scene.images.iterdir()}
        role.done_gate.open()
        runtime.finish()
    # The first file is found by images_dir_fd, the second by work_dir_fd.
    assert {"inventory.img", "dump.log"} <= written
    if not peer.real:
        options = peer.recorded("request")[0]["opts"]
        assert IMAGES_FD_OF_THE_RUNTIME not in (options["images_dir_fd"], options["work_dir_fd"])


def test_a_directory_that_the_runtime_has_not_open_ends_the_conversation(
    scene: Scene, peer: Peer
) -> None:
    task = scene.task()
    with scene.dump_role() as role:
        runtime = scene.dump_of(task, opts={"images_dir_fd": 999})
        with pytest.raises(ConversationLost):
            role.request_gate.wait_reached(LIMIT_S)
        runtime.finish()
        assert runtime.named("eof")
        assert not runtime.named("response")
    task.check_runs()
    if not peer.real:
        assert peer.recorded("request") == []


def test_bytes_that_are_no_message_end_only_their_conversation(scene: Scene) -> None:
    with scene.dump_role():
        other = scene.runtime("VERSION", raw="ff" * 40)
        other.finish()
        assert other.named("eof")
        through = scene.runtime("VERSION")
        through.finish()
        assert through.named("response")[0]["success"]


@pytest.mark.parametrize("nftables", [True, False])
def test_criu_sees_the_edits(scene: Scene, nftables: bool) -> None:
    """The runtime asks for log level 4, iptables, and a freezer cgroup that is not there."""
    with scene.dump_role(Edits(nftables=nftables, one_cgroup=True)) as role:
        runtime = scene.dump_of(scene.task())
        release(role)
        role.done_gate.open()
        assert runtime.finish()[-2]["success"]
    # In images 0 is iptables, and 1 is nftables.
    assert inventory(scene)["network_lock_method"] == nftables
    assert "Dumping" not in (scene.images / "dump.log").read_text()


def test_without_edits_criu_does_as_the_runtime_says(scene: Scene) -> None:
    """This shows that the edits make the difference."""
    task = scene.task()
    runtime = scene.dump_of(task, interposed=False, opts={"lazy_pages": True})
    runtime.finish()
    assert not runtime.named("response")[0]["success"]
    assert "Dumping" in (scene.images / "dump.log").read_text()
    task.check_runs()


def test_criu_gets_the_page_server_socket(scene: Scene) -> None:
    """CRIU has the socket by the number that the request names.

    What comes over the socket is the memory of the processes.
    """
    task = scene.task()
    with scene.dump_role() as role:
        runtime = scene.dump_of(task)
        release(role)
        assert role.failure is None
        pids = task.tree()
        assert {pid for pid, _ in role.received} == set(pids)
        for (pid, vaddr), content in role.received.items():
            assert content == task.memory(pid, vaddr, PAGE_SIZE), f"page {vaddr:#x} of {pid}"
        for pid, page in itertools.product(pids, range(1, task_program.PAGES)):
            assert role.received[
                pid, task_program.REGION + page * PAGE_SIZE
            ] == task_program.pattern(page)
        role.done_gate.open()
        runtime.finish()


def test_a_dump_whose_parent_has_all_memory_sends_no_pages(fake_scene: Scene) -> None:
    """The fake CRIU takes the parent.

    The real one is told that memory is tracked only in a mount namespace of its own, as
    tests/integration/test_interposer.py has it.
    """
    task = fake_scene.task()
    with fake_scene.dump_role() as role:
        role.parent = make_parent(fake_scene.directory)
        runtime = fake_scene.dump_of(task)
        release(role)
        assert role.failure is None
        assert role.received == {}
        for pid in task.tree():
            rows = pagemaps.rows(fake_scene.images / f"pagemap-{pid}.img")
            assert rows == [(task_program.REGION, task_program.PAGES, PE_PARENT)]
        role.refuse()
        runtime.finish()
    task.check_runs()
