"""Tests of checkpoint/criu/roles.py: the instants of a conversation that others wait for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.criu import roles, rpc
from checkpoint.criu.edits import Edits
from checkpoint.criu.interposer import Stamp
from checkpoint.criu.roles import (
    MAKING_TASKS,
    OWN_NETWORK,
    DumpRole,
    RestoreRole,
    UndumpedRole,
)
from checkpoint.errors import ConversationLost
from checkpoint.host import cgroups

TIMEOUT_S = 20.0


@pytest.fixture
def role(tmp_path: Path) -> RestoreRole:
    return RestoreRole(Edits(nftables=True, one_cgroup=True), tmp_path)


def waiter(role: RestoreRole) -> threading.Thread:
    """Start a thread that waits until CRIU makes the tasks, and return the thread."""
    thread = threading.Thread(target=role.wait_making_tasks, args=(TIMEOUT_S,), daemon=True)
    thread.start()
    return thread


def test_digests_begin_when_criu_goes_on_and_not_when_it_says_so(role: RestoreRole) -> None:
    """Between the two the runtime answers the notification, and must not wait for a processor."""
    thread = waiter(role)
    for script in ("pre-restore", "setup-namespaces"):
        assert role.notify(script, 0)
        role.went_on()
    assert role.notify(MAKING_TASKS, 0)
    thread.join(0.05)
    assert thread.is_alive()
    role.went_on()
    thread.join(TIMEOUT_S / 2)
    assert not thread.is_alive()


def test_digests_begin_at_the_latest_when_the_tasks_are_made(role: RestoreRole) -> None:
    """A runtime that asked for no notifications gets none, so CRIU does not go on from them."""
    thread = waiter(role)
    role.done_gate.open()
    assert role.notify("post-restore", 7)
    thread.join(TIMEOUT_S / 2)
    assert not thread.is_alive()
    assert role.pid == 7


PLAIN = Edits(nftables=False, one_cgroup=False)


class Conversation:
    """A conversation whose CRIU is a process that sleeps."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(["sleep", "100"])
        self.criu_pid = self._process.pid
        self.stamps: list[Stamp] = []
        self.opened_fds: list[int] = []

    def criu_lives(self) -> bool:
        return self._process.poll() is None

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill_criu(self) -> None:
        self._process.kill()
        self._process.wait(TIMEOUT_S)

    def close(self) -> None:
        self.kill_criu()
        for fd in self.opened_fds:
            os.close(fd)


@pytest.fixture
def conversation() -> Iterator[Any]:
    conversation = Conversation()
    yield conversation
    conversation.close()


@pytest.fixture
def dump() -> Iterator[DumpRole]:
    role = DumpRole(PLAIN)
    yield role
    role.close()


@pytest.fixture
def restore(tmp_path: Path) -> RestoreRole:
    return RestoreRole(PLAIN, tmp_path)


def options(kind: str = "DUMP", **changes: Any) -> Any:
    found = rpc.request(kind).opts
    for name, value in changes.items():
        setattr(found, name, value)
    return found


# --- a request -----------------------------------------------------------------------------------


def test_without_edits_only_notifications_are_asked_for() -> None:
    found = options(manage_cgroups=True)
    PLAIN.apply(found)
    assert found.notify_scripts
    assert found.manage_cgroups
    assert not found.HasField("network_lock")
    assert list(found.ext_mnt) == []


def test_every_edit_is_applied() -> None:
    found = options(manage_cgroups=True)
    Edits(nftables=True, one_cgroup=True, external_mounts=(("/run", "/run"),)).apply(found)
    assert found.network_lock == rpc.network_lock_nftables()
    assert (found.manage_cgroups, found.manage_cgroups_mode) == (False, rpc.cgroups_ignore())
    assert [(mount.key, mount.val) for mount in found.ext_mnt] == [("/run", "/run")]


@pytest.mark.parametrize(
    ("network", "external", "added"),
    [
        (None, [], 0),
        ("/proc/self/ns/net", [], 1),
        ("/proc/self/ns/net", ["mnt[/a]:/a"], 1),
        ("/proc/self/ns/net", ["net[77]:extRootNetNS"], 0),
    ],
)
def test_a_network_that_is_made_on_the_target_is_not_dumped(
    dump: DumpRole, network: str | None, external: list[str], added: int
) -> None:
    """The request stays as it is if the runtime has named the network already."""
    dump.edits = Edits(nftables=False, one_cgroup=False, network_namespace=network)
    found = options(freeze_cgroup="/sys/fs/cgroup/freezer/box")
    found.external.extend(external)
    dump.edit(found)
    assert not found.HasField("freeze_cgroup")
    new = list(found.external)[len(external) :]
    number = os.stat("/proc/self/ns/net").st_ino
    assert new == [f"net[{number}]:{OWN_NETWORK}"] * added


@pytest.mark.parametrize("parent", [None, "../predump-1"])
def test_a_dump_goes_to_the_page_server_and_has_its_parent(
    dump: DumpRole, parent: str | None
) -> None:
    dump.parent = parent
    found = options()
    dump.last_edit(found)
    assert found.ps.fd == roles.PAGE_SERVER_FD
    assert found.track_mem is (parent is not None)
    assert found.parent_img == (parent or "")
    assert list(dump.fds_for_criu("VERSION")) == []
    handed = dump.fds_for_criu("DUMP")
    assert list(handed) == [roles.PAGE_SERVER_FD]
    os.close(handed[roles.PAGE_SERVER_FD])


@pytest.mark.parametrize("one", [False, True])
def test_a_restore_reads_the_migrations_images_in_the_containers_cgroup(
    restore: RestoreRole, conversation: Any, monkeypatch: pytest.MonkeyPatch, one: bool
) -> None:
    entered: list[tuple[int, str, str]] = []
    monkeypatch.setattr(cgroups, "enter", lambda *how: entered.append(how))
    restore.edits = Edits(nftables=False, one_cgroup=one)
    restore.begun(conversation, "RESTORE")
    found = options("RESTORE", images_dir_fd=-1)
    found.cg_root.add(ctrl="cpu", path="/box")
    found.cg_root.add(path="/box")
    found.ext_mnt.add(key="/sys/fs/cgroup/cpu", val="/sys/fs/cgroup/cpu/crun")
    found.ext_mnt.add(key="/data", val="/srv/data")
    restore.edit(found)
    assert found.images_dir_fd == found.work_dir_fd == conversation.opened_fds[0]
    pid, own = conversation.criu_pid, "/sys/fs/cgroup/cpu"
    assert entered == ([(pid, "/box", "cpu"), (pid, "/box", "")] if one else [])
    shown = {mount.key: mount.val for mount in found.ext_mnt}
    assert shown == {own: f"{own}/box" if one else f"{own}/crun", "/data": "/srv/data"}


@pytest.mark.parametrize("lazy", [False, True])
def test_a_lazy_restore_reads_no_memory(restore: RestoreRole, lazy: bool) -> None:
    restore.lazy = lazy
    found = options("RESTORE")
    restore.last_edit(found)
    assert found.lazy_pages is lazy


def test_roots_and_network_are_read_from_the_restore_request(
    restore: RestoreRole, conversation: Any
) -> None:
    restore.begun(conversation, "RESTORE")
    restore.options = options("RESTORE", root="/run/rootfs")
    restore.options.ext_mnt.add(key="/data", val="/srv/data")
    restore.options.inherit_fd.add(key="other", fd=3)
    restore.options.inherit_fd.add(key=OWN_NETWORK, fd=9)
    assert restore.roots() == {"/": Path("/run/rootfs"), "/data": Path("/srv/data")}
    assert restore.network_namespace == f"/proc/{conversation.criu_pid}/fd/9"


def test_other_conversations_pass_unchanged(dump: DumpRole, conversation: Any) -> None:
    dump.begun(conversation, "VERSION")
    message = rpc.request("VERSION")
    before = message.SerializeToString()
    assert dump.request("VERSION", message)
    assert message.SerializeToString() == before
    assert not dump.criu_lives()
    dump.ended(conversation, "VERSION")
    dump.went_on()
    dump.request_gate.open()
    assert dump.request("DUMP", rpc.request("DUMP"))


# --- CRIU ----------------------------------------------------------------------------------------


def test_a_criu_that_ends_is_not_killed(dump: DumpRole, conversation: Any) -> None:
    dump.begun(conversation, "DUMP")
    later = threading.Timer(0.1, os.kill, (conversation.criu_pid, signal.SIGTERM))
    later.start()
    assert dump.end(TIMEOUT_S)
    later.join()
    assert dump.end(0.0), "nor is one that has ended"


def test_a_criu_that_was_stopped_goes_on_and_is_not_killed(
    dump: DumpRole, conversation: Any
) -> None:
    dump.begun(conversation, "DUMP")
    os.kill(conversation.criu_pid, signal.SIGSTOP)
    os.waitpid(conversation.criu_pid, os.WUNTRACED)
    os.kill(conversation.criu_pid, signal.SIGTERM)  # which waits until CRIU goes on
    assert dump.end(TIMEOUT_S)


def test_a_criu_that_does_not_end_is_killed(dump: DumpRole, conversation: Any) -> None:
    dump.begun(conversation, "DUMP")
    dump.check_frozen()
    assert not dump.end(0.05)
    assert not dump.criu_lives()
    with pytest.raises(ConversationLost, match="CRIU ended while it held"):
        dump.check_frozen()


@pytest.mark.parametrize("begun", [False, True])
def test_a_criu_is_buried_before_it_undoes_anything(
    dump: DumpRole, conversation: Any, begun: bool
) -> None:
    if begun:
        dump.begun(conversation, "DUMP")
    dump.bury()
    assert conversation.criu_lives() is not begun
    assert not dump.request_gate.arrive()
    assert dump.pages.recv(1) == b"", "who serves pages is told as well"


def test_the_network_is_locked_from_its_stamp_on(dump: DumpRole, conversation: Any) -> None:
    dump.begun(conversation, "DUMP")
    assert not dump.locked_network
    conversation.stamps.append(Stamp(name="network-lock", at_ns=1))
    assert dump.locked_network


@pytest.mark.parametrize(
    ("stamps", "after"), [((), "nothing"), (("request DUMP", "pre-dump", "end"), "pre-dump")]
)
def test_an_end_says_how_far_it_came(
    dump: DumpRole, conversation: Any, stamps: tuple[str, ...], after: str
) -> None:
    dump.begun(conversation, "DUMP")
    conversation.stamps += [Stamp(name=name, at_ns=1) for name in stamps]
    dump.ended(conversation, "DUMP")
    with pytest.raises(ConversationLost, match=f"the conversation ended after '{after}'"):
        dump.done_gate.wait_reached(TIMEOUT_S)


def test_a_resume_that_does_not_come_is_an_error(restore: RestoreRole) -> None:
    with pytest.raises(ConversationLost, match=r"did not resume the container within 0\.01 s"):
        restore.wait_resumed(0.01)
    restore.lose("the runtime ended")
    restore.lose("and something else")
    with pytest.raises(ConversationLost, match=r"did not resume the container: the runtime ended$"):
        restore.wait_resumed(TIMEOUT_S)


def test_a_wait_for_the_resume_ends_with_post_resume(restore: RestoreRole) -> None:
    called: list[str] = []
    restore.at["post-resume"] = lambda: called.append("at")
    assert restore.notify("post-resume", 0)
    restore.wait_resumed(TIMEOUT_S)
    assert called == ["at"]
    restore.lose("over")
    restore.wait_resumed(TIMEOUT_S)


# --- a dump that is skipped ----------------------------------------------------------------------


def test_a_skipped_dump_asks_criu_for_its_version_alone() -> None:
    """CRIU is asked for its version instead, and the runtime is told that the dump is done."""
    (criu, at_criu), (runtime, at_runtime) = (
        socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)
    )
    with criu, at_criu, runtime, at_runtime:
        role = UndumpedRole()
        found: Any = SimpleNamespace(criu=criu, runtime=runtime)
        role.begun(found, "DUMP")
        at_criu.send(b"4.2.1")  # an answer of CRIU's, which nobody reads
        assert role.fds_for_criu("DUMP") == {}
        assert role.request("VERSION", rpc.request("VERSION"))
        assert not role.request("DUMP", rpc.request("DUMP"))
        assert at_criu.recv(1000) == rpc.request("VERSION").SerializeToString()
        answer = rpc.parse_response(at_runtime.recv(1000))
        assert answer.success
        assert role.notify("anything", 0)
        role.went_on()
        role.ended(found, "DUMP")
