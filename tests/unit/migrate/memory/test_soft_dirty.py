"""migrate/memory/soft_dirty.py: what of CRIU's "unchanged" is not taken on trust."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest

from checkpoint.criu.page_server import PAGE_SIZE, dst_id_of_process
from migrate.memory import soft_dirty
from migrate.memory.soft_dirty import HUGE_PAGE, SoftDirtyCopy
from tests.unit.helpers.obedient import Child
from tests.unit.migrate.memory.ends import ERRORS, ends, failing

Ranges = list[tuple[int, int]]


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [
        ([(10, 20)], [(10, 20)], [(10, 20)]),
        ([(10, 20)], [(10, 30)], [(10, 20)]),
        ([(10, 20)], [(10, 15)], [(10, 15)]),
        ([(10, 20)], [(5, 20)], [(10, 20)]),
        ([(10, 20)], [(12, 22)], []),
        ([(10, 20), (30, 40)], [(30, 40), (50, 60)], [(30, 40)]),
        ([], [(10, 20)], []),
    ],
)
def test_mappings_that_did_not_move(before: Ranges, now: Ranges, kept: Ranges) -> None:
    assert soft_dirty.unmoved(before, now) == kept


def test_whole_blocks_of_zeros_are_found_by_their_first_page() -> None:
    memory = mmap.mmap(-1, 4 * HUGE_PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    first = -(-start // HUGE_PAGE) * HUGE_PAGE
    memory[first - start + HUGE_PAGE] = 1  # the second whole block begins with something
    found = soft_dirty.zero_blocks(os.getpid(), [(start, start + 4 * HUGE_PAGE)])
    assert (first, first + HUGE_PAGE) in found
    assert (first + HUGE_PAGE, first + 2 * HUGE_PAGE) not in found
    assert soft_dirty.zero_blocks(os.getpid(), [(first, first + HUGE_PAGE - PAGE_SIZE)]) == []


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
