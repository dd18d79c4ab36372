"""checkpoint/images/pagemap.py against the classes that CRIU's own protobuf description makes."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycriu import images as image_files
from pycriu.images import pagemap_pb2

from checkpoint.criu.page_wire import PAGE_SIZE, PE_LAZY, PE_PARENT, PE_PRESENT
from checkpoint.errors import ImageError
from checkpoint.images import pagemap
from checkpoint.images.pagemap import Entry, PageImages, Pagemap

BASE = 0x7F00_0000_0000
entries = st.builds(
    lambda vaddr, pages, flags: Entry(vaddr=vaddr * PAGE_SIZE, pages=pages, flags=flags),
    st.integers(0, 1 << 35),
    st.integers(1, 1 << 34),
    st.integers(0, 7),
)
pagemaps = st.builds(
    lambda pages_id, rows: Pagemap(pages_id=pages_id, entries=tuple(rows)),
    st.integers(0, (1 << 32) - 1),
    st.lists(entries, max_size=8),
)
PRESENT = Entry(vaddr=BASE, pages=3, flags=PE_PRESENT)


def load(data: bytes, directory: Path) -> Pagemap:
    path = directory / "pagemap-1.img"
    path.write_bytes(data)
    return Pagemap.load(path)


def saved(found: Pagemap, directory: Path) -> bytes:
    path = directory / "saved.img"
    found.save(path)
    return path.read_bytes()


@given(found=pagemaps)
def test_round_trip(found: Pagemap, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.getbasetemp()
    assert load(saved(found, directory), directory) == found


@given(found=pagemaps)
def test_criu_reads_the_same(found: Pagemap, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.getbasetemp()
    saved(found, directory)
    with (directory / "saved.img").open("rb") as file:
        image = image_files.load(file)
    assert image["magic"] == "PAGEMAP"
    head, *rows = image["entries"]
    assert head["pages_id"] == found.pages_id
    for row, entry in zip(rows, found.entries, strict=True):
        assert int(str(row["vaddr"]), 0) == entry.vaddr
        assert row["nr_pages"] == entry.pages
        assert row["compat_nr_pages"] == (entry.pages if entry.pages < 1 << 32 else 0)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 32) - 1))
def test_an_entry_is_what_protobuf_writes(vaddr: int, pages: int, flags: int) -> None:
    compat = pages if pages < 1 << 32 else 0
    message = pagemap_pb2.pagemap_entry(vaddr=vaddr, compat_nr_pages=compat, flags=flags, nr_pages=pages)
    data = message.SerializeToString()
    assert pagemap.encode_entry(vaddr, pages, flags) == struct.pack("=I", len(data)) + data


@given(found=pagemaps, old=st.booleans())
def test_what_criu_writes_is_read(found: Pagemap, old: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Both generations: before 4.2 there is no nr_pages."""
    rows: list[dict[str, Any]] = [{"pages_id": found.pages_id}]
    for entry in found.entries:
        pages = min(entry.pages, (1 << 32) - 1) if old else entry.pages
        compat = pages if pages < 1 << 32 else 0
        row = {"vaddr": hex(entry.vaddr), "compat_nr_pages": compat, "flags": entry.flags}
        rows.append(row if old else {**row, "nr_pages": pages})
    directory = tmp_path_factory.getbasetemp()
    path = directory / "pagemap-2.img"
    with path.open("wb") as file:
        image_files.dump({"magic": "PAGEMAP", "entries": rows}, file)
    expected = tuple(
        Entry(vaddr=e.vaddr, pages=min(e.pages, (1 << 32) - 1) if old else e.pages, flags=e.flags)
        for e in found.entries
    )
    assert Pagemap.load(path) == Pagemap(pages_id=found.pages_id, entries=expected)


def test_an_entry_without_flags_is_present(tmp_path: Path) -> None:
    """CRIU before 2.7 wrote in_parent instead."""
    path = tmp_path / "pagemap-1.img"
    with path.open("wb") as file:
        rows = [{"pages_id": 1}, {"vaddr": "0x1000", "compat_nr_pages": 2}]
        image_files.dump({"magic": "PAGEMAP", "entries": rows}, file)
    assert Pagemap.load(path).entries == (Entry(vaddr=0x1000, pages=2, flags=PE_PRESENT),)


@given(found=pagemaps, data=st.data())
def test_any_damage_is_an_image_error_or_another_pagemap(
    found: Pagemap, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Never another exception. (There is no checksum: a changed number reads as that number.)"""
    directory = tmp_path_factory.getbasetemp()
    content = bytearray(saved(found, directory))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        load(bytes(content), directory)


@given(found=pagemaps, data=st.data())
def test_a_file_cut_short_is_an_image_error(
    found: Pagemap, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """But for a cut between two entries, which nothing in the format shows."""
    directory = tmp_path_factory.getbasetemp()
    content = saved(found, directory)
    whole = [len(saved(Pagemap(pages_id=found.pages_id, entries=found.entries[:n]), directory)) for n in range(9)]
    cut = data.draw(st.integers(0, len(content) - 1).filter(lambda n: n not in whole))
    with pytest.raises(ImageError):
        load(content[:cut], directory)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"not an image at all", pagemap.MAGICS, pagemap.MAGICS + b"\0"])
def test_what_is_no_pagemap(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        load(content, tmp_path)


def test_lazy_ranges() -> None:
    rows = (
        Entry(vaddr=BASE, pages=1, flags=PE_PRESENT),
        Entry(vaddr=BASE + PAGE_SIZE, pages=2, flags=PE_LAZY),
        Entry(vaddr=BASE + 3 * PAGE_SIZE, pages=1, flags=PE_LAZY | PE_PRESENT),
        Entry(vaddr=BASE + 4 * PAGE_SIZE, pages=1, flags=PE_PARENT),
    )
    assert Pagemap(pages_id=1, entries=rows).lazy_ranges() == [(BASE + PAGE_SIZE, BASE + 3 * PAGE_SIZE)]


# --- PageImages ------------------------------------------------------------------------------------------


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
    process, shared = Pagemap.load(tmp_path / "pagemap-7.img"), Pagemap.load(tmp_path / "pagemap-shmem-9.img")
    assert [(e.vaddr, e.pages, e.flags) for e in process.entries] == [
        (BASE, 3, PE_PRESENT),
        (BASE + 3 * PAGE_SIZE, 5, PE_LAZY),
        (BASE + 9 * PAGE_SIZE, 1, PE_PRESENT),
    ]
    assert process.pages_id != shared.pages_id
    assert (tmp_path / f"pages-{process.pages_id}.img").read_bytes() == bytes(page("a", 2)) + bytes(page("b")) + bytes(
        page("c")
    )
    assert (tmp_path / f"pages-{shared.pages_id}.img").read_bytes() == bytes(page("s"))
    assert {path.stat().st_mode & 0o077 for path in tmp_path.glob("pages-*")} == {0}


def test_disorder_is_refused(tmp_path: Path) -> None:
    with PageImages(tmp_path) as images:
        images.extent(0x101, BASE, 2, PE_PRESENT, page("a", 2))
        with pytest.raises(ImageError):
            images.extent(0x101, BASE + PAGE_SIZE, 1, PE_PRESENT, page("b"))


@pytest.mark.parametrize(("pages", "flags", "size"), [(2, PE_PRESENT, 1), (1, PE_PRESENT, 0), (1, PE_LAZY, 1)])
def test_lengths_must_agree(tmp_path: Path, pages: int, flags: int, size: int) -> None:
    with PageImages(tmp_path) as images, pytest.raises(ImageError):
        images.extent(0x101, BASE, pages, flags, page("a", size))


def test_an_unknown_type_of_image(tmp_path: Path) -> None:
    with PageImages(tmp_path) as images, pytest.raises(ImageError):
        images.extent(0x103, BASE, 1, PE_PRESENT, page("a"))
