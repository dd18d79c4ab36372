"""Tests of checkpoint/memory/fold.py: the pages that were sent ahead become images."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint.criu.images.pagemap import PageImages
from checkpoint.criu.page_server import (
    PAGE_SIZE,
    PE_LAZY,
    PE_PRESENT,
    PS_TYPE_SHMEM,
    dst_id_of_process,
)
from checkpoint.errors import ImageError
from checkpoint.memory.fold import fold
from checkpoint.memory.store import PageStore
from tests import pagemaps

BASE = 0x7F00_0000_0000


def page(letter: str) -> bytes:
    return letter.encode() * PAGE_SIZE


def put(store: PageStore, dst_id: int, first: int, letters: str) -> None:
    store.put(dst_id, BASE + first * PAGE_SIZE, memoryview(b"".join(map(page, letters))))


def at(number: int) -> int:
    return BASE + number * PAGE_SIZE


def test_the_newest_of_each_page_makes_the_image(tmp_path: Path) -> None:
    with PageStore(tmp_path) as store, PageImages(tmp_path) as images:
        put(store, dst_id_of_process(1), 0, "abcdef")
        put(store, dst_id_of_process(1), 2, "XY")
        put(store, dst_id_of_process(1), 20, "z")
        left = fold(
            store,
            images,
            dst_id_of_process(1),
            [(at(1), 3, False), (at(4), 1, True), (at(20), 1, False)],
        )
        images.write_pagemaps()
    assert left == [(at(4), at(5))], "one page is left to the store"
    assert pagemaps.rows(tmp_path / "pagemap-1.img") == [
        (at(1), 3, PE_PRESENT),
        (at(4), 1, PE_LAZY),
        (at(20), 1, PE_PRESENT),
    ]
    assert (tmp_path / "pages-1.img").read_bytes() == b"".join(map(page, "bXYz"))


def test_shared_memory_is_an_image_of_its_own(tmp_path: Path) -> None:
    shared = 1 << 8 | PS_TYPE_SHMEM
    with PageStore(tmp_path) as store, PageImages(tmp_path) as images:
        put(store, dst_id_of_process(1), 0, "a")
        put(store, shared, 0, "s")
        assert fold(store, images, shared, [(at(0), 1, False)]) == []
        images.write_pagemaps()
    assert [path.name for path in tmp_path.glob("pagemap*")] == ["pagemap-shmem-1.img"]
    assert (tmp_path / "pages-1.img").read_bytes() == page("s")


@pytest.mark.parametrize(
    "extents", [[(at(3), 2, False)], [(at(3), 2, True)], [(at(2), 1, True), (at(1), 1, True)]]
)
def test_pages_that_never_came_or_are_out_of_order_are_refused(
    tmp_path: Path, extents: list[tuple[int, int, bool]]
) -> None:
    with PageStore(tmp_path) as store, PageImages(tmp_path) as images, pytest.raises(ImageError):
        put(store, dst_id_of_process(1), 0, "abcd")
        fold(store, images, dst_id_of_process(1), extents)
