"""Tests of checkpoint/criu/parent.py: how CRIU is made to accept a parent.

tests/integration/test_interposer.py has the real CRIU accept one.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pycriu import images as image_files

from checkpoint.criu import features, parent
from checkpoint.criu.parent import forget_writes, kerndat_with_tracking, make_parent

#: A kerndat file, which has a zero for each answer that is no, as CRIU's own has.
KERNDAT = b"\x01\0" * 200


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    kerndat_with_tracking.cache_clear()
    yield
    kerndat_with_tracking.cache_clear()


def criu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, tracks: bool, offset: int | None
) -> list[bytes]:
    """Have a kernel that tracks writes or not, and a CRIU that keeps that answer at an offset.

    Return the list of files that CRIU is shown.
    """
    shown: list[bytes] = []

    def taken(kerndat: bytes) -> bool:
        shown.append(kerndat)
        return offset is not None and kerndat[offset] == 1

    cache = tmp_path / "criu.kdat"
    cache.write_bytes(KERNDAT)
    monkeypatch.setattr(parent, "KERNDAT", str(cache))
    monkeypatch.setattr(features, "has", lambda _: tracks)
    monkeypatch.setattr(parent, "is_taken_for_tracking", taken)
    return shown


def test_a_kernel_that_tracks_needs_no_help(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown = criu(monkeypatch, tmp_path, tracks=True, offset=33)
    assert kerndat_with_tracking() == b""
    assert shown == []


@pytest.mark.parametrize("offset", [33, 41])
def test_the_offset_of_the_answer_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offset: int
) -> None:
    shown = criu(monkeypatch, tmp_path, tracks=False, offset=offset)
    assert kerndat_with_tracking() == KERNDAT[:offset] + b"\1" + KERNDAT[offset + 1 :]
    assert kerndat_with_tracking() is not None
    for kerndat in shown:
        changed = [at for at in range(len(KERNDAT)) if kerndat[at] != KERNDAT[at]]
        assert len(changed) == 1, "one answer is changed at a time"
        assert (KERNDAT[changed[0]], kerndat[changed[0]]) == (0, 1), "and never one that is yes"
    assert shown[-1][offset] == 1, "asked once"


def test_a_criu_that_takes_no_changed_answer_gets_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    criu(monkeypatch, tmp_path, tracks=False, offset=None)
    assert kerndat_with_tracking() is None


def test_a_criu_that_keeps_no_file_gets_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    criu(monkeypatch, tmp_path, tracks=False, offset=33)
    (tmp_path / "criu.kdat").unlink()
    assert kerndat_with_tracking() is None


def test_a_parent_is_one_that_criu_reads(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    path = images / make_parent(tmp_path) / "inventory.img"
    with path.open("rb") as file:
        found = image_files.load(file)
    assert found["magic"] == "INVENTORY"
    assert found["entries"][0]["dump_uptime"] > 1_000_000 * 3600 * 24 * 365 * 1000, (
        "in microseconds"
    )
    assert struct.unpack("=I", path.read_bytes()[:4]) == (parent.INVENTORY_MAGIC,)


def test_a_process_that_ended_has_nothing_to_forget() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    forget_writes([ended.pid, os.getpid()])
