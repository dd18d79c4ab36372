"""Tests of migrate/agent/restore.py: no container is held of which memory would be missing.

The test does CRIU's part.
"""

from __future__ import annotations

import contextlib
import errno
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

from checkpoint.criu.edits import Edits
from checkpoint.criu.interposer import Stamp
from checkpoint.criu.page_server import PAGE_SIZE, dst_id_of_process
from checkpoint.criu.roles import MAKING_TASKS, SETUP_NAMESPACES, RestoreRole
from checkpoint.errors import ConversationLost, ImageError
from checkpoint.host.processes import Init
from checkpoint.memory.pager.keeper import Keeper
from checkpoint.memory.pager.pager import INTEGER, SOCKET
from checkpoint.memory.store import PageStore
from checkpoint.undo import Undo
from migrate.agent import restore
from migrate.agent.restore import ArmedRestore
from migrate.limits import Limits
from migrate.wire import protocol

PID, START = 7, 0x1000_0000_0000
ARM = protocol.Arm(nftables=True, one_cgroup=True, macs=())
RESTORE = protocol.Restore(image_files=0, image_bytes=0, batches=0, proof_seed=None, left_out=())


def no_more_descriptors(_: str) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    keeper = Keeper(tmp_path)
    yield keeper
    keeper.release()


@pytest.fixture
def role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RestoreRole:
    """Return the role of the restore that the test makes."""
    role = RestoreRole(Edits(nftables=True, one_cgroup=True), tmp_path / "images")
    monkeypatch.setattr(restore, "RestoreRole", lambda *_: role)
    return role


def restore_in(directory: Path, store: PageStore, keeper: Keeper) -> ArmedRestore:
    """Return a restore of one task, which has one page in the store; its request is held."""
    store.put(dst_id_of_process(PID), START, memoryview(bytes(PAGE_SIZE)))
    received: Any = SimpleNamespace(
        tmpfs=SimpleNamespace(external_mounts=tuple),
        trees=SimpleNamespace(complete=lambda: None),
        images=directory / "images",
        store=store,
        complete=lambda _: {dst_id_of_process(PID): [(START, START + PAGE_SIZE)]},
        prove=lambda *_: (b"", 1),
    )
    received.images.mkdir()
    network = SimpleNamespace(is_own=False)
    prepared: Any = SimpleNamespace(received=received, keeper=keeper, network=network)
    return ArmedRestore(prepared, ARM, Limits(restore_s=20.0), print)


def criu_restores(role: RestoreRole, images: Path, init: int, *, pager_fails: bool) -> None:
    """Do what CRIU does: make the tasks once its request is released, and find nothing wrong.

    The process `init` is the container's first. With `pager_fails` CRIU does not go on, because
    tasks wait for their pages.
    """
    role.request_gate.arrive()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as pages:
        pages.connect(str(images / SOCKET))
        pages.send(INTEGER.pack(-1))
        if pager_fails:
            with pytest.raises(ConversationLost):
                role.done_gate.wait_reached(20)
        role.notify(SETUP_NAMESPACES, init)
        role.notify(MAKING_TASKS, 0)
        role.went_on()
        if not pager_fails:
            role.notify(role.held_notification, init)


@pytest.mark.parametrize("hands_over", [True, False])
def test_a_pager_that_failed_in_the_restore_fails_the_restore(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keeper: Keeper,
    role: RestoreRole,
    hands_over: bool,
) -> None:
    """A pager whose keeper cannot follow it gives up, and tasks would wait for pages for ever."""
    with contextlib.ExitStack() as stack:
        init = stack.enter_context(subprocess.Popen(["sleep", "60"]))
        stack.callback(init.kill)
        armed = restore_in(tmp_path, stack.enter_context(PageStore(tmp_path)), keeper)
        if not hands_over:
            monkeypatch.setattr(os, "memfd_create", no_more_descriptors)
        criu = threading.Thread(
            target=criu_restores,
            args=(role, tmp_path / "images", init.pid),
            kwargs={"pager_fails": not hands_over},
        )
        stack.callback(criu.join)
        stack.callback(role.refuse)
        undo = stack.enter_context(Undo())
        criu.start()
        if hands_over:
            assert armed.hold(RESTORE, undo).pages == 1
            undo.close()
            assert init.wait(20) == -signal.SIGKILL
        else:
            with pytest.raises(ImageError, match=r"memory was not in place: .*Too many open files"):
                armed.hold(RESTORE, undo)


def test_what_was_restored_does_not_outlive_a_criu_that_was_killed(
    tmp_path: Path, keeper: Keeper, role: RestoreRole
) -> None:
    """Only its init is known then: CRIU has not come to say that it holds it."""
    with PageStore(tmp_path) as store, subprocess.Popen(["sleep", "60"]) as init:
        armed: Any = restore_in(tmp_path, store, keeper)
        role.notify(SETUP_NAMESPACES, init.pid)
        armed._refuse()
        assert init.wait(20) == -signal.SIGKILL
        armed._close_init()


@pytest.fixture
def restored(tmp_path: Path, keeper: Keeper, role: RestoreRole) -> Iterator[tuple[Any, Any]]:
    """Return a restore whose CRIU has ended after GO, and the init that CRIU had restored."""
    with PageStore(tmp_path) as store, subprocess.Popen(["sleep", "60"]) as init:
        armed: Any = restore_in(tmp_path, store, keeper)
        armed._init = Init(init.pid)
        yield armed, init
        armed._init.close()
        init.kill()


def stamped(*names: str) -> list[Stamp]:
    return [Stamp(at_ns=at, name=name) for at, name in enumerate(names)]


def test_what_was_lost_before_it_could_run_is_killed(
    restored: tuple[Any, Any], role: RestoreRole
) -> None:
    armed, init = restored
    role.stamps = stamped("request RESTORE", "post-restore", "end")
    assert armed.end_unrun()
    assert init.wait(20) == -signal.SIGKILL


@pytest.mark.parametrize("let_go", [True, False])
def test_what_may_run_is_left_alone(
    restored: tuple[Any, Any], role: RestoreRole, let_go: bool
) -> None:
    """CRIU has unlocked the network; what it tells the pager decides."""
    armed, init = restored
    role.stamps = stamped("post-restore", "go on", "network-unlock", "go on", "end")
    armed._pager = SimpleNamespace(never_let_go=lambda _: not let_go)
    assert armed.end_unrun() is not let_go
    if let_go:
        assert init.poll() is None
    else:
        assert init.wait(20) == -signal.SIGKILL
    armed._pager = None
    assert not armed.end_unrun()
