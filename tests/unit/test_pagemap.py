"""checkpoint/images/pagemap.py: against pycriu's own reading of the format, and on wrong input."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycriu.images import pagemap_pb2

from checkpoint.criu.page_wire import PAGE_SIZE, PE_LAZY, PE_PARENT, PE_PRESENT, TYPE_PROCESS, TYPE_SHMEM
from checkpoint.errors import ImageError
from checkpoint.images.pagemap import Entry, PageImages, Pagemap, read_varint, varint

U64_MAX = (1 << 64) - 1
#: The file is written anew for each example.
anew = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
entries = st.builds(
    Entry,
    vaddr=st.integers(0, U64_MAX),
    pages=st.integers(1, U64_MAX),
    flags=st.integers(0, 7),
)
pagemaps = st.builds(
    Pagemap,
    pages_id=st.integers(0, (1 << 32) - 1),
    entries=st.lists(entries, max_size=8).map(tuple),
)


def messages(data: bytes) -> list[bytes]:
    """The messages of an image behind its two magics."""
    found, offset = [], 8
    while offset < len(data):
        (size,) = struct.unpack_from("=I", data, offset)
        found.append(data[offset + 4 : offset + 4 + size])
        offset += 4 + size
    return found


def page(value: int) -> bytes:
    return bytes([value]) * PAGE_SIZE


@given(st.integers(0, U64_MAX), st.binary(max_size=4))
def test_varint_round_trip(value: int, before: bytes) -> None:
    encoded = varint(value)
    assert read_varint(before + encoded, len(before)) == (value, len(before) + len(encoded))


@anew
@given(pagemap=pagemaps)
def test_round_trip(pagemap: Pagemap, tmp_path: Path) -> None:
    path = tmp_path / "pagemap-1.img"
    pagemap.save(path)
    assert Pagemap.load(path) == pagemap


@anew
@given(pagemap=pagemaps)
def test_criu_reads_the_same(pagemap: Pagemap, tmp_path: Path) -> None:
    path = tmp_path / "pagemap-1.img"
    pagemap.save(path)
    data = path.read_bytes()
    assert struct.unpack_from("=II", data) == (0x54564319, 0x56084025)
    head, *rest = messages(data)
    assert pagemap_pb2.pagemap_head.FromString(head).pages_id == pagemap.pages_id
    for message, entry in zip(rest, pagemap.entries, strict=True):
        read: Any = pagemap_pb2.pagemap_entry.FromString(message)
        assert (read.vaddr, read.flags) == (entry.vaddr, entry.flags)
        compat = read.compat_nr_pages if hasattr(read, "compat_nr_pages") else read.nr_pages
        assert compat == (entry.pages if entry.pages < 1 << 32 else 0)
        if hasattr(read, "compat_nr_pages"):
            assert read.nr_pages == entry.pages


@anew
@given(pagemap=pagemaps)
def test_what_criu_writes_is_read(pagemap: Pagemap, tmp_path: Path) -> None:
    path = tmp_path / "pagemap-1.img"
    out = [pagemap_pb2.pagemap_head(pages_id=pagemap.pages_id).SerializeToString()]
    for entry in pagemap.entries:
        message: Any = pagemap_pb2.pagemap_entry(vaddr=entry.vaddr, flags=entry.flags)
        if hasattr(message, "compat_nr_pages"):
            message.compat_nr_pages = 0
            message.nr_pages = entry.pages
        else:
            message.nr_pages = entry.pages & 0xFFFFFFFF or 1
        out.append(message.SerializeToString())
    magics = struct.pack("=II", 0x54564319, 0x56084025)
    path.write_bytes(magics + b"".join(struct.pack("=I", len(message)) + message for message in out))
    found = Pagemap.load(path)
    if "compat_nr_pages" in pagemap_pb2.pagemap_entry.DESCRIPTOR.fields_by_name:
        assert found == pagemap


def test_lazy_ranges_are_the_pages_left_out(tmp_path: Path) -> None:
    flags = (PE_LAZY, PE_PRESENT, PE_LAZY | PE_PRESENT, PE_PARENT, PE_LAZY | PE_PARENT)
    found = Pagemap(
        pages_id=1,
        entries=tuple(Entry(vaddr=i * 16 * PAGE_SIZE, pages=3, flags=flag) for i, flag in enumerate(flags)),
    )
    assert found.lazy_ranges() == [(0, 3 * PAGE_SIZE), (64 * PAGE_SIZE, 67 * PAGE_SIZE)]


@anew
@given(pagemap=pagemaps, cut=st.integers(0, 1 << 16))
def test_a_cut_image_is_refused_or_a_prefix(pagemap: Pagemap, cut: int, tmp_path: Path) -> None:
    path = tmp_path / "pagemap-1.img"
    pagemap.save(path)
    data = path.read_bytes()
    path.write_bytes(data[: cut % len(data)])
    try:
        found = Pagemap.load(path)
    except ImageError:
        return
    assert found.pages_id == pagemap.pages_id
    assert found.entries == pagemap.entries[: len(found.entries)]


@pytest.mark.parametrize("data", [b"", b"\x19\x43", bytes(8), b"not an image at all", bytes(4096)])
def test_other_files_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pagemap-1.img"
    path.write_bytes(data)
    with pytest.raises(ImageError, match="pagemap-1"):
        Pagemap.load(path)


MAGICS = struct.pack("=II", 0x54564319, 0x56084025)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x02\0\0\0",
        b"\x02\0\0\0\x08",
        b"\0\0\0\0",
        b"\x02\0\0\0\x10\x01",
        b"\x02\0\0\0\x08\x01\x02\0\0\0\x08\x01",
    ],
)
def test_damaged_ones_are_refused(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pagemap-1.img"
    path.write_bytes(MAGICS + body)
    with pytest.raises(ImageError, match="damaged"):
        Pagemap.load(path)


def test_page_images_are_what_load_reads(tmp_path: Path) -> None:
    process, shmem = 7 << 8 | TYPE_PROCESS, 99 << 8 | TYPE_SHMEM
    with PageImages(tmp_path) as images:
        images.extent(process, 0x1000, 1, PE_PRESENT, memoryview(page(1)))
        images.extent(shmem, 0, 1, PE_PRESENT, memoryview(page(9)))
        images.extent(process, 0x2000, 2, PE_PRESENT, memoryview(page(2) + page(3)))  # goes on
        images.extent(process, 0x4000, 5, PE_LAZY, memoryview(b""))  # another kind
        images.extent(process, 0x10000, 1, PE_PRESENT, memoryview(page(4)))  # behind a gap
        images.write_pagemaps()
    found = Pagemap.load(tmp_path / "pagemap-7.img")
    assert found.entries == (
        Entry(vaddr=0x1000, pages=3, flags=PE_PRESENT),
        Entry(vaddr=0x4000, pages=5, flags=PE_LAZY),
        Entry(vaddr=0x10000, pages=1, flags=PE_PRESENT),
    )
    assert (tmp_path / f"pages-{found.pages_id}.img").read_bytes() == page(1) + page(2) + page(3) + page(4)
    shared = Pagemap.load(tmp_path / "pagemap-shmem-99.img")
    assert shared.entries == (Entry(vaddr=0, pages=1, flags=PE_PRESENT),)
    assert (tmp_path / f"pages-{shared.pages_id}.img").read_bytes() == page(9)
    assert len(list(tmp_path.iterdir())) == 4


PROCESS = 7 << 8 | TYPE_PROCESS


@pytest.mark.parametrize(
    ("dst_id", "vaddr", "pages", "flags", "size"),
    [
        pytest.param(PROCESS, 0x10000, 2, PE_PRESENT, PAGE_SIZE, id="too few bytes"),
        pytest.param(PROCESS, 0x10000, 1, PE_PRESENT, PAGE_SIZE + 1, id="too many bytes"),
        pytest.param(PROCESS, 0x10000, 1, PE_LAZY, PAGE_SIZE, id="bytes of absent pages"),
        pytest.param(PROCESS, 0x1000, 1, PE_PRESENT, PAGE_SIZE, id="before the last"),
        pytest.param(PROCESS, 0x3000, 1, PE_PRESENT, PAGE_SIZE, id="inside the last"),
        pytest.param(7 << 8 | 77, 0x10000, 1, PE_PRESENT, PAGE_SIZE, id="unknown type"),
    ],
)
def test_wrong_extents_are_refused(tmp_path: Path, dst_id: int, vaddr: int, pages: int, flags: int, size: int) -> None:
    with PageImages(tmp_path) as images:
        images.extent(PROCESS, 0x2000, 2, PE_PRESENT, memoryview(bytes(2 * PAGE_SIZE)))
        with pytest.raises(ImageError):
            images.extent(dst_id, vaddr, pages, flags, memoryview(bytes(size)))
