"""Tests of checkpoint/criu/images/rseq.py, on images that CRIU's own library writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pycriu import images as image_files

from checkpoint.criu.images import rseq
from checkpoint.criu.page_server import dst_id_of_process
from checkpoint.errors import ImageError

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


def test_the_rseq_areas_of_all_threads_are_found(images: Path) -> None:
    assert rseq.areas(images) == {
        dst_id_of_process(7): [(0x7F00_0000_1020, 32), (0x7F00_0000_5040, 28)],
        dst_id_of_process(12): [(0x5000_0000, 32)],
    }


@pytest.mark.parametrize("cut", [1, 20])
def test_a_damaged_image_is_refused(images: Path, cut: int) -> None:
    path = images / "core-8.img"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ImageError, match=r"core-8\.img is damaged"):
        rseq.areas(images)
