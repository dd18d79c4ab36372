"""Tests of checkpoint/criu/images/mm.py, on images as CRIU writes them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from pycriu.images import mm_pb2, vma_pb2

from checkpoint.criu.images.mm import may_be_lazy
from checkpoint.criu.page_server import PAGE_SIZE
from checkpoint.errors import ImageError

ANONYMOUS, FILE, LOCKED, HUGE, SHARED = 0x22, 0x02, 0x2022, 0x40022, 0x21
REGULAR, VDSO = 1 | 1 << 9, 1 | 1 << 3
NUMBERS = (
    *("start_code", "end_code", "start_data", "end_data", "start_stack", "start_brk", "brk"),
    *("arg_start", "arg_end", "env_start", "env_end", "exe_file_id"),
)


def written(directory: Path, mappings: list[tuple[int, int, int, int]]) -> Path:
    """Write the image of a process with mappings: (first page, page behind, flags, status)."""
    memory = mm_pb2.mm_entry(
        **{name if name == "exe_file_id" else f"mm_{name}": 0 for name in NUMBERS}
    )
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
    path = directory / "mm-1.img"
    path.write_bytes(bytes(8) + struct.pack("=I", len(message)) + message)
    return path


def test_private_anonymous_mappings_may_be_lazy(tmp_path: Path) -> None:
    mappings = [
        (10, 20, ANONYMOUS, REGULAR),
        (20, 22, FILE, 1),
        (22, 30, ANONYMOUS, REGULAR),
        (30, 31, ANONYMOUS, REGULAR),
        (40, 44, LOCKED, REGULAR),
    ]
    found = may_be_lazy(written(tmp_path, mappings))
    assert [(start // PAGE_SIZE, end // PAGE_SIZE) for start, end in found] == [(10, 20), (22, 31)]


@pytest.mark.parametrize(
    ("flags", "status"),
    [(FILE, 1), (LOCKED, REGULAR), (HUGE, REGULAR), (SHARED, 1), (ANONYMOUS, VDSO)],
)
def test_other_mappings_may_not_be_lazy(tmp_path: Path, flags: int, status: int) -> None:
    assert may_be_lazy(written(tmp_path, [(10, 20, flags, status)])) == []


@pytest.mark.parametrize("data", [b"", bytes(8), bytes(8) + struct.pack("=I", 3) + b"\xff\xff\xff"])
def test_a_damaged_image_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "mm-1.img"
    path.write_bytes(data)
    with pytest.raises(ImageError):
        may_be_lazy(path)


@pytest.mark.parametrize(
    "change", [lambda data: data + b"\0", lambda data: data[:-1], lambda data: data + data[12:]]
)
def test_an_image_of_another_length_than_its_message_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    path = written(tmp_path, [(10, 20, ANONYMOUS, REGULAR), (30, 40, ANONYMOUS, REGULAR)])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ImageError):
        may_be_lazy(path)


@pytest.mark.parametrize(("start", "end"), [(20, 10), (20, 20)])
def test_a_mapping_that_ends_before_it_begins_is_refused(
    tmp_path: Path, start: int, end: int
) -> None:
    with pytest.raises(ImageError):
        may_be_lazy(written(tmp_path, [(start, end, ANONYMOUS, REGULAR)]))
