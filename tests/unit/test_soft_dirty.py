"""migrate/copying/soft_dirty.py: what of CRIU's "unchanged" is not taken on trust."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest

from checkpoint.criu.page_wire import PAGE_SIZE, PE_PARENT, PE_PRESENT, TYPE_SHMEM, process_id
from migrate.copying import soft_dirty
from migrate.copying.soft_dirty import HUGE_PAGE
from migrate.page_batches import PageBatches
from tests.unit.test_batches import Carrier

Ranges = list[tuple[int, int]]
NOTHING = memoryview(b"")
PROCESS, SHARED = process_id(1), 7 << 8 | TYPE_SHMEM


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
    assert soft_dirty._unmoved(before, now) == kept


def test_a_hole_that_nothing_came_for_is_unknown() -> None:
    session = soft_dirty._Session(PageBatches(Carrier()), {PROCESS: [(0, 4 * PAGE_SIZE)]})
    session.extent(PROCESS, 2 * PAGE_SIZE, 2, PE_PARENT, NOTHING)
    assert session.unknown(PROCESS) == []
    session.extent(PROCESS, 4 * PAGE_SIZE, 1, PE_PARENT, NOTHING)
    assert session.unknown(PROCESS) == [(4 * PAGE_SIZE, 5 * PAGE_SIZE)]
    assert session.unchanged_pages == 3


@pytest.mark.parametrize(("last", "kept"), [(False, [PROCESS]), (True, [PROCESS, SHARED])])
def test_shared_memory_is_for_the_last_session(last: bool, kept: list[int]) -> None:
    session = soft_dirty._Session(PageBatches(Carrier()), {}, last=last)
    for image in (PROCESS, SHARED):
        assert not session.has_parent(image)
        session.extent(image, 0, 1, PE_PRESENT, memoryview(b"x" * PAGE_SIZE))
    assert list(session.images) == kept
    assert session.sent_pages == len(kept)


def test_whole_blocks_of_zeros_are_found_by_their_first_page() -> None:
    memory = mmap.mmap(-1, 4 * HUGE_PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    first = -(-start // HUGE_PAGE) * HUGE_PAGE
    memory[first - start + HUGE_PAGE] = 1  # the second whole block begins with something
    found = soft_dirty._zero_blocks(os.getpid(), [(start, start + 4 * HUGE_PAGE)])
    assert (first, first + HUGE_PAGE) in found
    assert (first + HUGE_PAGE, first + 2 * HUGE_PAGE) not in found
    assert soft_dirty._zero_blocks(os.getpid(), [(first, first + HUGE_PAGE - PAGE_SIZE)]) == []
