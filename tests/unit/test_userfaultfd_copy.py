"""migrate/memory/userfaultfd.py and soft_dirty.py: processes that end, or cannot be looked at, during a round."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.criu.page_server import dst_id_of_process
from checkpoint.errors import ProcError
from checkpoint.memory.tracking import tracker, write_protection
from migrate.memory.copying import Reach
from migrate.memory.soft_dirty import SoftDirtyCopy
from migrate.memory.userfaultfd import UserfaultfdCopy
from tests.unit.obedient import Child
from tests.unit.test_batches import Carrier


def ends(pid: int) -> Any:
    """Both ends of a copy, as far as a round needs them."""
    notes: list[str] = []
    progress = SimpleNamespace(note=notes.append, notes=notes, sent=lambda _: None)
    return SimpleNamespace(
        pid=pid,
        dump=SimpleNamespace(options=None),
        directory=None,
        pages=Carrier(),
        progress=progress,
    )


@pytest.fixture
def copying(child: Child) -> Iterator[UserfaultfdCopy]:
    with contextlib.closing(UserfaultfdCopy(ends(child.pid))) as copying:
        assert copying.attach() is Reach.ALL
        copying.send_round()
        yield copying


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


ERRORS = [ProcError("no line of maps"), OSError(errno.ESRCH, "No such process")]


@pytest.mark.parametrize("error", ERRORS)
def test_a_process_that_cannot_be_looked_at_is_taken_for_unsent(
    child: Child, copying: UserfaultfdCopy, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    assert copying._known[child.pid]
    with monkeypatch.context() as patched:
        patched.setattr(write_protection, "private_mappings", failing(error))
        assert copying.send_round() == 0
    assert child.pid not in copying._known
    child.do("fill(3, 9)")
    assert copying.send_round() > 0


@pytest.mark.parametrize("error", [ProcError("no flags"), OSError(errno.EMFILE, os.strerror(24))])
def test_one_whose_files_are_not_known_is_not_believed_to_have_none_for_direct_io(
    child: Child, copying: UserfaultfdCopy, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(tracker, "reads_directly", failing(error))
    assert copying.send_round() == 0
    assert copying.attach() is Reach.NONE
    assert child.pid not in copying._known


def test_one_that_ended_is_forgotten(child: Child, copying: UserfaultfdCopy) -> None:
    child.end()
    assert copying.send_round() == 0
    assert copying.attach() is Reach.NONE
    assert copying.batches._carrier.forgotten[-1] == [dst_id_of_process(child.pid)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", ERRORS)
def test_with_soft_dirty_pages_it_is_sent_whole(
    child: Child, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    copying = SoftDirtyCopy(ends(child.pid))
    copying._known = {dst_id_of_process(child.pid): [(0, 4096)]}
    copying._forget_ended()
    assert copying._known
    monkeypatch.setattr("migrate.memory.soft_dirty.private_mappings", failing(error))
    copying._forget_ended()
    assert not copying._known
