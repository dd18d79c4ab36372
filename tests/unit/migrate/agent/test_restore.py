"""migrate/agent/restore.py: no container is held of which memory would be missing. The test is CRIU."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.criu.page_server import PAGE_SIZE, dst_id_of_process
from checkpoint.errors import ImageError
from checkpoint.memory.pager.keeper import Keeper
from checkpoint.memory.pager.pager import INTEGER, SOCKET
from checkpoint.memory.store import PageStore
from migrate.agent.restore import ArmedRestore
from migrate.limits import Limits
from migrate.wire import protocol

PID, START = 7, 0x1000_0000_0000
ARM = protocol.Arm(nftables=True, one_cgroup=True, macs=())
RESTORE = protocol.Restore(image_files=0, image_bytes=0, batches=0, proof_seed=None, left_out=())


def no_more_descriptors(_: str) -> int:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def restore_in(directory: Path, store: PageStore) -> ArmedRestore:
    """One whose request is held; one task has a page in the store."""
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
    prepared: Any = SimpleNamespace(received=received, keeper=Keeper(directory))
    return ArmedRestore(prepared, ARM, Limits(restore_s=20.0), print)


def restores(restore: ArmedRestore, images: Path, *, and_dies: bool) -> None:
    """What CRIU does: it makes the tasks once its request is released, and finds nothing wrong.

    With `and_dies` the pager fails, and tasks wait for their pages: CRIU does not go on.
    """
    restore._role.request_gate.arrive()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as pages:
        pages.connect(str(images / SOCKET))
        pages.send(INTEGER.pack(-1))
        assert restore._pager is not None
        if and_dies:
            with pytest.raises(ImageError):
                restore._pager.wait(20)
        restore._role._making_tasks.set()
        if not and_dies:
            restore._role.done_gate.arrive()


@pytest.mark.parametrize("hands_over", [True, False])
def test_a_pager_that_failed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hands_over: bool
) -> None:
    """A pager whose keeper cannot follow it gives up, and tasks would wait for their pages for ever."""
    with contextlib.ExitStack() as undo:
        store = undo.enter_context(PageStore(tmp_path))
        restore = restore_in(tmp_path, store)
        undo.callback(restore._prepared.keeper.release)
        if not hands_over:
            monkeypatch.setattr(os, "memfd_create", no_more_descriptors)
        criu = threading.Thread(
            target=restores,
            args=(restore, tmp_path / "images"),
            kwargs={"and_dies": not hands_over},
        )
        undo.callback(criu.join)
        undo.callback(restore._role.refuse)
        criu.start()
        if hands_over:
            assert restore.hold(RESTORE, undo).pages == 1
        else:
            with pytest.raises(ImageError, match=r"memory was not in place: .*Too many open files"):
                restore.hold(RESTORE, undo)
