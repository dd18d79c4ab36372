"""Tests of checkpoint/criu/images/pagemap.py, by the classes of CRIU's own protobuf description."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycriu import images as image_files
from pycriu.images import pagemap_pb2

from checkpoint.criu.images import pagemap
from checkpoint.criu.images.pagemap import PageImages
from checkpoint.criu.page_server import PAGE_SIZE, PE_LAZY, PE_PRESENT
from checkpoint.errors import ImageError
from tests import pagemaps

BASE = 0x7F00_0000_0000


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 32) - 1))
def test_an_entry_is_what_protobuf_writes(vaddr: int, pages: int, flags: int) -> None:
    compat = pages if pages < 1 << 32 else 0
    message = pagemap_pb2.pagemap_entry(
        vaddr=vaddr, compat_nr_pages=compat, flags=flags, nr_pages=pages
    )
    data = message.SerializeToString()
    assert pagemap.encode_entry(vaddr, pages, flags) == struct.pack("=I", len(data)) + data


# --- PageImages --------------------------------------------------------------------------


def page(letter: str, count: int = 1) -> memoryview:
    return memoryview(letter.encode() * PAGE_SIZE * count)


def test_extents_become_images(tmp_path: Path) -> None:
    with PageImages(tmp_path) as images:
        images.extent(7 << 8 | 1, BASE, 2, PE_PRESENT, page("a", 2))
        images.extent(9 << 8 | 2, 0, 1, PE_PRESENT, page("s"))
        images.extent(7 << 8 | 1, BASE + 2 * PAGE_SIZE, 1, PE_PRESENT, page("b"))
        images.extent(7 << 8 | 1, BASE + 3 * PAGE_SIZE, 5, PE_LAZY, page("")[:0])
        images.extent(7 << 8 | 1, BASE + 9 * PAGE_SIZE, 1, PE_PRESENT, page("c"))
        images.write_pagemaps()
    assert pagemaps.rows(tmp_path / "pagemap-7.img") == [
        (BASE, 3, PE_PRESENT),
        (BASE + 3 * PAGE_SIZE, 5, PE_LAZY),
        (BASE + 9 * PAGE_SIZE, 1, PE_PRESENT),
    ]
    with (tmp_path / "pagemap-7.img").open("rb") as file:
        assert image_files.load(file)["magic"] == "PAGEMAP"
    process, shared = (
        pagemaps.pages_id(tmp_path / f"pagemap-{name}.img") for name in ("7", "shmem-9")
    )
    assert process != shared
    assert (tmp_path / f"pages-{process}.img").read_bytes() == bytes(page("a", 2)) + bytes(
        page("b")
    ) + bytes(page("c"))
    assert (tmp_path / f"pages-{shared}.img").read_bytes() == bytes(page("s"))
    assert {path.stat().st_mode & 0o077 for path in tmp_path.glob("pages-*")} == {0}


def test_extents_out_of_order_are_refused(tmp_path: Path) -> None:
    with PageImages(tmp_path) as images:
        images.extent(0x101, BASE, 2, PE_PRESENT, page("a", 2))
        with pytest.raises(ImageError):
            images.extent(0x101, BASE + PAGE_SIZE, 1, PE_PRESENT, page("b"))


@pytest.mark.parametrize(
    ("pages", "flags", "size"), [(2, PE_PRESENT, 1), (1, PE_PRESENT, 0), (1, PE_LAZY, 1)]
)
def test_an_extent_with_more_or_fewer_bytes_is_refused(
    tmp_path: Path, pages: int, flags: int, size: int
) -> None:
    with PageImages(tmp_path) as images, pytest.raises(ImageError):
        images.extent(0x101, BASE, pages, flags, page("a", size))


def test_an_unknown_type_of_image_is_refused(tmp_path: Path) -> None:
    with PageImages(tmp_path) as images, pytest.raises(ImageError):
        images.extent(0x103, BASE, 1, PE_PRESENT, page("a"))
