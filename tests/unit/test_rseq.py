"""checkpoint/criu/images/rseq.py on images that CRIU's own library writes, and what the proof of memory makes of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pycriu import images as image_files

from checkpoint.criu.images import rseq
from checkpoint.criu.page_server import dst_id_of_process
from checkpoint.errors import ImageError
from checkpoint.memory import proof

THREADS = {7: (0x7F00_0000_1020, 32), 8: (0x7F00_0000_5040, 28), 9: None, 12: (0x5000_0000, 32)}
PROCESSES = {7: [7, 8, 9], 12: [12]}


def core(area: tuple[int, int] | None) -> dict[str, object]:
    found: dict[str, object] = {
        "futex_rla": 0,
        "futex_rla_len": 0,
        "sched_nice": 0,
        "sched_policy": 0,
    }
    if area is not None:
        found["rseq_entry"] = {
            "rseq_abi_pointer": area[0],
            "rseq_abi_size": area[1],
            "signature": 0,
        }
    return {"mtype": "X86_64", "thread_core": found}


def save(path: Path, magic: str, entries: list[dict[str, object]]) -> None:
    with path.open("wb") as file:
        image_files.dump({"magic": magic, "entries": entries}, file)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    of_pid = [
        {"pid": pid, "ppid": 0, "pgid": 7, "sid": 7, "threads": tids}
        for pid, tids in PROCESSES.items()
    ]
    save(tmp_path / "pstree.img", "PSTREE", of_pid)
    for number, area in THREADS.items():
        save(tmp_path / f"core-{number}.img", "CORE", [core(area)])
    return tmp_path


def test_the_areas_of_all_threads(images: Path) -> None:
    assert rseq.areas(images) == {
        dst_id_of_process(7): [(0x7F00_0000_1020, 32), (0x7F00_0000_5040, 28)],
        dst_id_of_process(12): [(0x5000_0000, 32)],
    }


@pytest.mark.parametrize("cut", [1, 20])
def test_a_damaged_image(images: Path, cut: int) -> None:
    path = images / "core-8.img"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ImageError, match=r"core-8\.img is damaged"):
        rseq.areas(images)


def digests(content: bytes, left_out: proof.Areas) -> list[bytes | None]:
    def read(image: int, address: int, view: memoryview) -> bool:
        view[:] = content[address : address + len(view)]
        return True

    pieces = [proof.Piece(dst_id=1, start=at, end=at + 8192) for at in range(0, len(content), 8192)]
    return [digest for _, digest in proof.digests(iter(pieces), read, left_out)]


@pytest.mark.parametrize("at", [0, 4064, 8192, 12000, 16352])
def test_what_is_left_out_counts_as_zeros_and_nothing_else(at: int) -> None:
    before = os.urandom(16384)
    after = before[:at] + bytes(byte ^ 1 for byte in before[at : at + 32]) + before[at + 32 :]
    other = [(100, 32), (at, 32), (20000, 32)]
    assert digests(before, {}) != digests(after, {})
    assert digests(before, {1: sorted(other)}) == digests(after, {1: sorted(other)})
    assert digests(before, {2: sorted(other)}) != digests(after, {2: sorted(other)})
    assert digests(before, {1: sorted(other)}) != digests(after[:-1] + b"?", {1: [(at, 31)]})
