"""checkpoint/images/relazy.py on images as CRIU writes them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from pycriu.images import mm_pb2, vma_pb2

from checkpoint.criu.page_wire import PAGE_SIZE, PE_LAZY, PE_PRESENT
from checkpoint.errors import ImageError
from checkpoint.images.pagemap import Entry, Pagemap
from checkpoint.images.relazy import relazy

ANONYMOUS, FILE, LOCKED, HUGE, SHARED = 0x22, 0x02, 0x2022, 0x40022, 0x21
REGULAR, VDSO = 1 | 1 << 9, 1 | 1 << 3
NUMBERS = (
    *("start_code", "end_code", "start_data", "end_data", "start_stack", "start_brk", "brk"),
    *("arg_start", "arg_end", "env_start", "env_end", "exe_file_id"),
)


def write(directory: Path, mappings: list[tuple[int, int, int, int]], entries: list[tuple[int, int, int]]) -> bytes:
    """Images of process 1: mappings are (first page, past the last, flags, status), entries (page, count, flags).

    Returns the pages that were written.
    """
    memory = mm_pb2.mm_entry(**{name if name == "exe_file_id" else f"mm_{name}": 0 for name in NUMBERS})
    for start, end, flags, status in mappings:
        memory.vmas.append(
            vma_pb2.vma_entry(
                start=start * PAGE_SIZE,
                end=end * PAGE_SIZE,
                pgoff=0,
                shmid=0,
                prot=3,
                flags=flags,
                status=status,
                fd=-1,
            )
        )
    message = memory.SerializeToString()
    (directory / "mm-1.img").write_bytes(bytes(8) + struct.pack("=I", len(message)) + message)
    rows = tuple(Entry(vaddr=page * PAGE_SIZE, pages=count, flags=flags) for page, count, flags in entries)
    Pagemap(pages_id=7, entries=rows).save(directory / "pagemap-1.img")
    present = [page for at, count, flags in entries if flags & PE_PRESENT for page in range(at, at + count)]
    data = b"".join(struct.pack("=Q", page) * (PAGE_SIZE // 8) for page in present)
    (directory / "pages-7.img").write_bytes(data)
    return data


def rows_of(directory: Path) -> list[tuple[int, int, int]]:
    entries = Pagemap.load(directory / "pagemap-1.img").entries
    return [(entry.vaddr // PAGE_SIZE, entry.pages, entry.flags) for entry in entries]


def kept(directory: Path) -> list[int]:
    data = (directory / "pages-7.img").read_bytes()
    return [number for (number,) in struct.iter_unpack(f"=Q{PAGE_SIZE - 8}x", data)]


def test_what_may_be_lazy_is_made_so_and_the_rest_stays(tmp_path: Path) -> None:
    mappings = [
        (10, 20, ANONYMOUS, REGULAR),
        (20, 22, FILE, 1),
        (22, 30, ANONYMOUS, REGULAR),
        (40, 44, LOCKED, REGULAR),
    ]
    # One entry over three mappings, as CRIU joins them.
    write(tmp_path, mappings, [(12, 12, PE_PRESENT), (41, 2, PE_PRESENT)])
    assert relazy(tmp_path, 1)[1] == 10 * PAGE_SIZE
    assert rows_of(tmp_path) == [(12, 8, PE_LAZY), (20, 2, PE_PRESENT), (22, 2, PE_LAZY), (41, 2, PE_PRESENT)]
    assert kept(tmp_path) == [20, 21, 41, 42]


@pytest.mark.parametrize(
    "flags, status", [(FILE, 1), (LOCKED, REGULAR), (HUGE, REGULAR), (SHARED, 1), (ANONYMOUS, VDSO)]
)
def test_what_may_not_be_lazy_is_left_alone(tmp_path: Path, flags: int, status: int) -> None:
    data = write(tmp_path, [(10, 20, flags, status)], [(12, 3, PE_PRESENT)])
    assert relazy(tmp_path, 1)[1] == 0
    assert rows_of(tmp_path) == [(12, 3, PE_PRESENT)]
    assert (tmp_path / "pages-7.img").read_bytes() == data


def test_nothing_happens_where_criu_made_it_lazy(tmp_path: Path) -> None:
    data = write(tmp_path, [(10, 20, ANONYMOUS, REGULAR)], [(10, 2, PE_LAZY), (12, 3, PE_PRESENT)])
    assert relazy(tmp_path, 1)[1] == 0
    assert rows_of(tmp_path) == [(10, 2, PE_LAZY), (12, 3, PE_PRESENT)]
    assert (tmp_path / "pages-7.img").read_bytes() == data


@pytest.mark.parametrize("data", [b"", bytes(8), bytes(8) + struct.pack("=I", 3) + b"\xff\xff\xff"])
def test_a_damaged_image(tmp_path: Path, data: bytes) -> None:
    write(tmp_path, [(10, 20, ANONYMOUS, REGULAR)], [(12, 3, PE_PRESENT)])
    (tmp_path / "mm-1.img").write_bytes(data)
    with pytest.raises(ImageError):
        relazy(tmp_path, 1)
