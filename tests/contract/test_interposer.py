"""The contract between a runtime, the interposer and CRIU. One suite, on a fake CRIU and on the real one."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pycriu import images as image_files

from checkpoint.criu.interposer import Interposer
from checkpoint.criu.page_server import PE_PARENT
from checkpoint.criu.parent import make_parent
from checkpoint.criu.roles import Edits
from checkpoint.errors import ConversationLost
from tests import pagemaps
from tests.contract.harness import LIMIT_S, Dump, Peer, Restore, Scene, Task, state_of, until
from tests.fakes import task as task_program

PAGE_SIZE = 4096
IMAGES_FD_OF_THE_RUNTIME = 150
DUMP_NOTIFICATIONS = ["pre-dump", "query-ext-files", "post-dump"]
RESTORE_NOTIFICATIONS = ["pre-restore", "post-restore", "pre-resume", "post-resume"]
STAGES = ["request", "between", "done"]


def open_descriptors() -> dict[str, str]:
    """{number: what it is} of this process."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        try:
            found[path.name] = os.readlink(path)
        except FileNotFoundError:
            continue  # the one that listed them
    return found


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """However a test's conversations end, they leave no descriptor in this process."""
    before = open_descriptors()
    yield
    deadline = time.monotonic() + LIMIT_S
    while left := {
        number: what for number, what in open_descriptors().items() if before.get(number) != what
    }:
        assert time.monotonic() < deadline, f"left open: {left}"
        time.sleep(0.002)


def run_criu(program: Path, arguments: list[str], env: dict[str, str]) -> tuple[int, str, str]:
    done = subprocess.run(
        [program, *arguments], env=env, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    return done.returncode, done.stdout, done.stderr


def release(role: Dump | Restore) -> None:
    """Let it go from the request to the second gate."""
    role.request_gate.wait_reached(LIMIT_S)
    role.request_gate.open()
    role.done_gate.wait_reached(LIMIT_S)


def dump_to_images(scene: Scene, task: Task) -> int:
    """Dump a task for good; the counter it had."""
    with scene.dump_role() as role:
        runtime = scene.dump_of(task)
        release(role)
        counter = task.counter(task.pid)
        role.done_gate.open()
        assert runtime.finish()[-2]["success"]
        role.wait_over()
    task.wait_killed()
    return counter


def inventory(scene: Scene) -> dict[str, Any]:
    with (scene.images / "inventory.img").open("rb") as file:
        entry: dict[str, Any] = image_files.load(file)["entries"][0]
    return entry


# --- the shim ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["check"], ["no-such-command", "two words", ""], []],
    ids=lambda a: a[0] if a else "none",
)
def test_other_commands_go_to_criu_unchanged(
    scene: Scene, peer: Peer, arguments: list[str]
) -> None:
    with scene.dump_role():
        direct = run_criu(peer.directory / "criu", arguments, scene.env)
        assert run_criu(scene.shim, arguments, scene.env) == direct
    if not peer.real:
        assert peer.recorded("argv") == [arguments, arguments]


def test_shim_ends_when_nobody_listens(scene: Scene, peer: Peer) -> None:
    runtime = scene.runtime("VERSION")
    runtime.finish()
    assert runtime.named("eof")
    assert runtime.named("ended")[0]["status"] > 0
    if not peer.real:
        assert peer.recorded("argv") == []


def test_criu_stays_the_runtimes_child(scene: Scene, peer: Peer) -> None:
    """The shim becomes CRIU: same process, same parent."""
    with scene.dump_role() as role:
        runtime = scene.dump_of(scene.task())
        role.request_gate.wait_reached(LIMIT_S)
        criu = runtime.wait_for("started")["criu"]
        program = peer.directory / "criu" if peer.real else Path(os.path.realpath("/proc/self/exe"))
        until(
            lambda: Path(f"/proc/{criu}/exe").readlink() == program.resolve(),
            "the shim to become CRIU",
        )
        fields = Path(f"/proc/{criu}/stat").read_text().rpartition(")")[2].split()
        assert int(fields[1]) == runtime.process.pid
        role.refuse()
        runtime.finish()


def test_only_the_owner_may_connect(scene: Scene) -> None:
    with scene.dump_role():
        assert scene.socket_path.stat().st_mode & 0o777 == 0o600
    assert not scene.socket_path.exists()


# --- what passes through ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["VERSION", "FEATURE_CHECK"])
def test_questions_pass_through(scene: Scene, kind: str) -> None:
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


def test_directories_are_found_among_the_runtimes_descriptors(scene: Scene, peer: Peer) -> None:
    """The runtime's numbers mean nothing in our process; CRIU looks them up there all the same."""
    assert str(IMAGES_FD_OF_THE_RUNTIME) not in open_descriptors()
    with scene.dump_role() as role:
        runtime = scene.dump_of(scene.task())
        release(role)
        written = {path.name for path in scene.images.iterdir()}
        role.done_gate.open()
        runtime.finish()
    assert {
        "inventory.img",
        "dump.log",
    } <= written  # the first by images_dir_fd, the second by work_dir_fd
    if not peer.real:
        options = peer.recorded("request")[0]["opts"]
        assert IMAGES_FD_OF_THE_RUNTIME not in (options["images_dir_fd"], options["work_dir_fd"])


def test_a_directory_that_the_runtime_has_not_ends_the_conversation(
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


def test_garbage_ends_only_its_own_conversation(scene: Scene) -> None:
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
    assert (
        inventory(scene)["network_lock_method"] == nftables
    )  # in images 0 is iptables, 1 nftables
    assert "Dumping" not in (scene.images / "dump.log").read_text()


def test_without_edits_criu_does_as_the_runtime_says(scene: Scene) -> None:
    """That the test above can fail."""
    task = scene.task()
    runtime = scene.dump_of(task, interposed=False, opts={"lazy_pages": True})
    runtime.finish()
    assert not runtime.named("response")[0]["success"]
    assert "Dumping" in (scene.images / "dump.log").read_text()
    task.check_runs()


def test_criu_gets_the_page_server_socket(scene: Scene) -> None:
    """It works by that number in CRIU's own process, and what comes over it is the memory of the processes."""
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
    """The real one is not told so of a process in our own mount namespace; tests/integration has it so told."""
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


def test_a_cache_that_cannot_be_shown_to_criu_is_an_error(scene: Scene) -> None:
    kerndat = scene.directory / "move" / "kerndat"
    kerndat.mkdir()
    status, _, said = run_criu(scene.shim, ["--version"], scene.env)
    assert status == 1
    assert said.startswith(f"criu: {kerndat} cannot be shown as /run/criu.kdat: ")


# --- the dump, held ----------------------------------------------------------------------------------------


def test_a_dump_is_held_at_its_request(scene: Scene, peer: Peer) -> None:
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


def test_a_dump_refused_at_its_request_never_was(scene: Scene, peer: Peer) -> None:
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


def test_a_dump_is_held_at_post_dump(scene: Scene) -> None:
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


def test_a_dump_refused_at_post_dump_thaws(scene: Scene) -> None:
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


def test_bury_ends_criu_where_it_stands(scene: Scene) -> None:
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


def test_bury_without_a_conversation_is_nothing(scene: Scene) -> None:
    with scene.dump_role() as role:
        runtime = scene.dump_of(scene.task())
        release(role)
        role.done_gate.open()
        runtime.finish()
        role.wait_over()
        role.bury()


# --- the restore, held ---------------------------------------------------------------------------------------


def test_a_restore_is_held_twice_then_runs(scene: Scene, peer: Peer) -> None:
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


def test_a_restore_refused_at_its_request_never_was(scene: Scene) -> None:
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


# --- what passed when ------------------------------------------------------------------------------------------


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


# --- someone dies ------------------------------------------------------------------------------------------------


def bring_to(scene: Scene, role: Dump, stage: str) -> tuple[Task, Any, int]:
    """A dump held at a gate, or between them by a runtime that does not answer. (task, runtime, CRIU's pid)"""
    task = scene.task()
    stall: dict[str, Any] = {"stall_at": "query-ext-files"} if stage == "between" else {}
    runtime = scene.dump_of(task, **stall)
    criu: int = runtime.wait_for("started")["criu"]
    role.request_gate.wait_reached(LIMIT_S)
    if stage != "request":
        role.request_gate.open()
    if stage == "between":
        runtime.wait_for("notify", script="query-ext-files")
    if stage == "done":
        role.done_gate.wait_reached(LIMIT_S)
        assert task.frozen()
    return task, runtime, criu


@pytest.mark.parametrize("stage", STAGES)
def test_criu_dies(scene: Scene, stage: str) -> None:
    """Whoever waits is told, the runtime sees its peer gone, the container goes on."""
    with scene.dump_role() as role:
        task, runtime, criu = bring_to(scene, role, stage)
        os.kill(criu, signal.SIGKILL)
        until(lambda: state_of(criu) in ("", "Z"), "CRIU to be dead")
        role.request_gate.open()
        if stage != "done":
            with pytest.raises(ConversationLost):
                role.done_gate.wait_reached(LIMIT_S)
        role.done_gate.open()
        runtime.finish()
        role.wait_over()
        assert runtime.named("eof")
        assert not runtime.named("response")
    task.check_runs()


@pytest.mark.parametrize("stage", STAGES)
def test_the_runtime_dies(scene: Scene, stage: str) -> None:
    """CRIU undoes what it did, even when the word to go on comes after the death."""
    with scene.dump_role() as role:
        task, runtime, criu = bring_to(scene, role, stage)
        runtime.process.kill()
        runtime.process.wait()
        role.request_gate.open()
        role.done_gate.open()
        role.wait_over()
        if stage != "done":
            with pytest.raises(ConversationLost):
                role.done_gate.wait_reached(LIMIT_S)
        until(lambda: state_of(criu) in ("", "Z"), "CRIU to end")
    task.check_runs()


@pytest.mark.parametrize("gate", ["request", "done"])
def test_we_die_with_a_dump(scene: Scene, gate: str) -> None:
    task = scene.task()
    pids = task.tree()
    holder = scene.holder("dump", gate)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"listening\n"
    runtime = scene.dump_of(task)
    criu = runtime.wait_for("started")["criu"]
    assert holder.stdout.readline() == b"reached\n"
    assert task.frozen() == (gate == "done")
    holder.kill()
    runtime.finish()
    assert runtime.named("eof")
    assert not runtime.named("response")
    until(lambda: state_of(criu) == "", "CRIU to end")
    assert task.tree() == pids
    task.check_runs()


@pytest.mark.parametrize("gate", ["request", "done"])
def test_we_die_with_a_restore(scene: Scene, gate: str) -> None:
    """Nothing half restored stays: it would be a second container once the source is thawed."""
    task = scene.task()
    dump_to_images(scene, task)
    holder = scene.holder("restore", gate)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"listening\n"
    runtime = scene.runtime("RESTORE")
    criu = runtime.wait_for("started")["criu"]
    assert holder.stdout.readline() == b"reached\n"
    restored = children_of(runtime.process.pid) - {criu}
    assert bool(restored) == (gate == "done")
    holder.kill()
    runtime.finish()
    assert runtime.named("eof")
    assert not runtime.named("response")
    for pid in restored:
        until(lambda pid=pid: state_of(pid) == "", "the restored process to be gone")  # type: ignore[misc]


def children_of(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


# --- descriptors, and several at once --------------------------------------------------------------------------


def test_descriptors_go_along_with_a_request(fake_scene: Scene, tmp_path: Path) -> None:
    """Only the fake can tell: CRIU takes none with these requests."""
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
    """The terminal of a container, which runc takes from the orphan-pts-master notification."""
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


def test_conversations_do_not_wait_for_each_other(scene: Scene) -> None:
    """runc asks for CRIU's version, in a conversation of its own, while another may be held."""
    task = scene.task()
    with scene.dump_role() as role:
        held = scene.dump_of(task)
        role.request_gate.wait_reached(LIMIT_S)
        others = [scene.runtime("VERSION") for _ in range(3)]
        for other in others:
            assert other.finish()[-2]["success"]
        role.request_gate.open()
        role.done_gate.wait_reached(LIMIT_S)
        last = scene.runtime("FEATURE_CHECK")
        assert last.finish()[-2]["success"]
        role.refuse()
        held.finish()
        assert not held.named("response")[0]["success"]
        assert [stamp.name for stamp in role.stamps].count("request VERSION") == 0
    task.check_runs()


def test_a_conversation_outlives_the_listener(scene: Scene) -> None:
    """Leaving the interposer's block takes no more shims; what has begun goes on."""
    task = scene.task()
    with contextlib.closing(Dump(scene.images)) as role:
        with Interposer(scene.socket_path, role):
            runtime = scene.dump_of(task)
            role.request_gate.wait_reached(LIMIT_S)
        late = scene.runtime("VERSION")
        late.finish()
        assert late.named("eof")
        release(role)
        role.done_gate.open()
        assert runtime.finish()[-2]["success"]
        role.wait_over()
    task.wait_killed()
