"""Tests of checkpoint/memory/restorable.py: what was folded is read back, wherever it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint.criu.images.pagemap import PageImages
from checkpoint.criu.page_server import PAGE_SIZE, PS_TYPE_SHMEM, dst_id_of_process
from checkpoint.errors import CheckpointError, ImageError
from checkpoint.memory.fold import fold
from checkpoint.memory.restorable import Restorable
from checkpoint.memory.store import PageStore

SHARED = 7 << 8 | PS_TYPE_SHMEM


def page(letter: str) -> bytes:
    return letter.encode() * PAGE_SIZE


def at(number: int) -> int:
    return number * PAGE_SIZE


def restorable(directory: Path, store: PageStore, images: PageImages) -> Restorable:
    """Fold a process with the pages 1 to 5 and 9, of which 3 and 4 are lazy.

    There is an empty piece of shared memory as well.
    """
    store.put(dst_id_of_process(1), 0, memoryview(b"".join(map(page, "abcdef"))))
    store.put(dst_id_of_process(1), at(9), memoryview(page("z")))
    extents = [(at(1), 2, False), (at(3), 2, True), (at(5), 1, False), (at(9), 1, False)]
    assert fold(store, images, dst_id_of_process(1), extents) == [(at(3), at(5))]
    assert fold(store, images, SHARED, []) == []
    return Restorable(images, store)


def test_pages_come_from_where_the_restore_takes_them(tmp_path: Path) -> None:
    with PageStore(tmp_path) as store, PageImages(tmp_path) as images:
        found = restorable(tmp_path, store, images)
        assert found.pages() == {
            dst_id_of_process(1): [(at(1), at(6)), (at(9), at(10))],
            SHARED: [],
        }
        view = memoryview(bytearray(5 * PAGE_SIZE))
        assert found.read(dst_id_of_process(1), at(1), view)
        assert view == b"".join(map(page, "bcdef"))
        assert found.read(dst_id_of_process(1), at(9), view[:PAGE_SIZE])
        assert view[:PAGE_SIZE] == page("z")


@pytest.mark.parametrize(("first", "count"), [(0, 1), (5, 2), (6, 1), (8, 2), (10, 1)])
def test_a_page_that_is_in_no_image_is_refused(tmp_path: Path, first: int, count: int) -> None:
    with PageStore(tmp_path) as store, PageImages(tmp_path) as images, pytest.raises(ImageError):
        found = restorable(tmp_path, store, images)
        found.read(dst_id_of_process(1), at(first), memoryview(bytearray(count * PAGE_SIZE)))


def test_an_image_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    with (
        PageStore(tmp_path) as store,
        PageImages(tmp_path) as images,
        pytest.raises(CheckpointError),
    ):
        found = restorable(tmp_path, store, images)
        (tmp_path / "pages-1.img").write_bytes(page("b") * 3)
        found.read(dst_id_of_process(1), at(9), memoryview(bytearray(PAGE_SIZE)))


def test_a_shared_mapping_that_nobody_wrote_to_has_an_image(tmp_path: Path) -> None:
    with PageStore(tmp_path) as store, PageImages(tmp_path) as images:
        restorable(tmp_path, store, images)
        images.write_pagemaps()
    assert (tmp_path / "pagemap-shmem-7.img").exists()
    assert (tmp_path / "pages-2.img").read_bytes() == b""
