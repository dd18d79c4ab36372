"""Tests of migrate/memory/page_map.py: pages that CRIU finds, brings or has in the parent."""

from __future__ import annotations

import pytest

from checkpoint.criu.page_server import (
    PAGE_SIZE,
    PE_PARENT,
    PE_PRESENT,
    PS_TYPE_SHMEM,
    dst_id_of_process,
)
from migrate.memory.batches import PageBatches
from migrate.memory.page_map import Dumped
from tests.unit.migrate.memory.carrier import Carrier

NOTHING = memoryview(b"")
PROCESS, SHARED = dst_id_of_process(1), 7 << 8 | PS_TYPE_SHMEM


def at(page: int) -> int:
    return page * PAGE_SIZE


def test_pages_of_the_parent_are_holes_in_what_is_there() -> None:
    batches = PageBatches(Carrier())
    dumped = Dumped(batches, {PROCESS}.__contains__, last=True)
    assert dumped.has_parent(PROCESS)
    dumped.extent(PROCESS, at(2), 2, PE_PARENT, NOTHING)
    dumped.extent(PROCESS, at(4), 1, PE_PRESENT, memoryview(b"x" * PAGE_SIZE))
    dumped.extent(PROCESS, at(9), 1, PE_PARENT, NOTHING)
    assert dumped.found_pages() == {PROCESS: [(at(2), at(5)), (at(9), at(10))]}
    assert dumped.holes(PROCESS) == [(at(2), at(4)), (at(9), at(10))]
    assert (dumped.hole_pages(), dumped.sent_pages, batches.pages) == (3, 1, 1)
    assert dumped.holes(dst_id_of_process(2)) == []


def test_an_image_without_a_page_is_an_image_all_the_same() -> None:
    dumped = Dumped(PageBatches(Carrier()), {PROCESS}.__contains__, last=True)
    dumped.has_parent(PROCESS)
    assert dumped.found_pages() == {PROCESS: []}


@pytest.mark.parametrize(("last", "kept"), [(False, [PROCESS]), (True, [PROCESS, SHARED])])
def test_shared_memory_is_kept_of_the_last_dump_only(last: bool, kept: list[int]) -> None:
    dumped = Dumped(PageBatches(Carrier()), {PROCESS}.__contains__, last=last)
    for image in (PROCESS, SHARED):
        assert dumped.has_parent(image) is (image == PROCESS)
        dumped.extent(image, 0, 1, PE_PRESENT, memoryview(b"x" * PAGE_SIZE))
    assert list(dumped.found_pages()) == kept
    assert dumped.sent_pages == len(kept)
