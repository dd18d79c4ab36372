"""Tests of migrate/memory/userfaultfd.py: processes that end or hide during a round."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

import pytest

from checkpoint.criu.page_server import dst_id_of_process
from checkpoint.errors import ProcError
from checkpoint.memory.tracking import tracker, write_protection
from migrate.memory.copying import Reach
from migrate.memory.userfaultfd import UserfaultfdCopy
from tests.unit.helpers.obedient import Child
from tests.unit.migrate.memory.carrier import Carrier
from tests.unit.migrate.memory.ends import ERRORS, ends, failing


@pytest.fixture
def carrier() -> Carrier:
    return Carrier()


@pytest.fixture
def copying(child: Child, carrier: Carrier) -> Iterator[UserfaultfdCopy]:
    with contextlib.closing(UserfaultfdCopy(ends(child.pid, carrier))) as copying:
        assert copying.attach() is Reach.ALL
        copying.send_round()
        yield copying


@pytest.mark.parametrize("error", ERRORS)
def test_a_process_that_cannot_be_looked_at_is_taken_for_unsent(
    child: Child, copying: UserfaultfdCopy, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    assert copying.known[child.pid]
    with monkeypatch.context() as patched:
        patched.setattr(write_protection, "private_mappings", failing(error))
        assert copying.send_round() == 0
    assert child.pid not in copying.known
    child.do("fill(3, 9)")
    assert copying.send_round() > 0


@pytest.mark.parametrize("error", [ProcError("no flags"), OSError(errno.EMFILE, os.strerror(24))])
def test_a_process_whose_files_are_not_known_may_have_one_open_for_direct_io(
    child: Child, copying: UserfaultfdCopy, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(tracker, "reads_directly", failing(error))
    assert copying.send_round() == 0
    assert copying.attach() is Reach.NONE
    assert child.pid not in copying.known


def test_a_process_that_ended_is_forgotten(
    child: Child, copying: UserfaultfdCopy, carrier: Carrier
) -> None:
    child.end()
    assert copying.send_round() == 0
    assert copying.attach() is Reach.NONE
    assert carrier.forgotten[-1] == [dst_id_of_process(child.pid)]
