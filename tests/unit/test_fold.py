"""checkpoint/memory/fold.py: images of what was sent ahead."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint.criu.page_wire import PAGE_SIZE, PE_LAZY, PE_PRESENT, TYPE_SHMEM, process_id
from checkpoint.errors import ImageError
from checkpoint.images.pagemap import Entry, PageImages, Pagemap
from checkpoint.memory.fold import fold
from checkpoint.memory.store import PageStore

BASE = 0x7F00_0000_0000


def page(letter: str) -> bytes:
    return letter.encode() * PAGE_SIZE


def put(store: PageStore, dst_id: int, first: int, letters: str) -> None:
    store.put(dst_id, BASE + first * PAGE_SIZE, memoryview(b"".join(map(page, letters))))


def at(number: int) -> int:
    return BASE + number * PAGE_SIZE


def test_the_newest_of_each_page_makes_the_image(tmp_path: Path) -> None:
    with PageStore(tmp_path) as store, PageImages(tmp_path) as images:
        put(store, process_id(1), 0, "abcdef")
        put(store, process_id(1), 2, "XY")
        put(store, process_id(1), 20, "z")
        fold(store, images, process_id(1), [(at(1), 3, False), (at(4), 1, True), (at(20), 1, False)])
        images.write_pagemaps()
        assert store.lazy_ranges(tmp_path) == {process_id(1): [(at(4), at(5))]}, "one page is left to the store"
    entries = Pagemap.load(tmp_path / "pagemap-1.img").entries
    assert entries == (
        Entry(vaddr=at(1), pages=3, flags=PE_PRESENT),
        Entry(vaddr=at(4), pages=1, flags=PE_LAZY),
        Entry(vaddr=at(20), pages=1, flags=PE_PRESENT),
    )
    assert (tmp_path / "pages-1.img").read_bytes() == b"".join(map(page, "bXYz"))


def test_shared_memory_is_an_image_of_its_own(tmp_path: Path) -> None:
    shared = 1 << 8 | TYPE_SHMEM
    with PageStore(tmp_path) as store, PageImages(tmp_path) as images:
        put(store, process_id(1), 0, "a")
        put(store, shared, 0, "s")
        fold(store, images, shared, [(at(0), 1, False)])
        images.write_pagemaps()
        assert store.lazy_ranges(tmp_path) == {}
    assert [path.name for path in tmp_path.glob("pagemap*")] == ["pagemap-shmem-1.img"]
    assert (tmp_path / "pages-1.img").read_bytes() == page("s")


@pytest.mark.parametrize("extents", [[(at(3), 2, False)], [(at(2), 1, True), (at(1), 1, True)]])
def test_what_never_came_and_what_is_out_of_order(tmp_path: Path, extents: list[tuple[int, int, bool]]) -> None:
    with PageStore(tmp_path) as store, PageImages(tmp_path) as images, pytest.raises(ImageError):
        put(store, process_id(1), 0, "abcd")
        fold(store, images, process_id(1), extents)
