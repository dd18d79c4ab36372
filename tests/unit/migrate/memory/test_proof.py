"""Tests of migrate/memory/proof.py: memory that did not arrive as it was frozen is told."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Iterator

import pytest

from checkpoint.criu.page_server import dst_id_of_process
from checkpoint.memory import proof
from checkpoint.memory.frozen import FrozenMemory
from checkpoint.memory.tracking.write_protection import PAGE_SIZE
from migrate.errors import MemoryDiffers
from migrate.memory import proof as source_proof
from migrate.memory.proof import MemoryProof
from migrate.wire import protocol

PAGES = 4


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    """Yield memory of this process's own, which stands for the frozen container's."""
    with mmap.mmap(-1, PAGES * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as found:
        found.write(os.urandom(len(found)))
        yield found


def made(memory: mmap.mmap) -> tuple[MemoryProof, int]:
    """Return the proof of that memory, which has not begun, and the memory's address."""
    anchor = ctypes.c_char.from_buffer(memory)
    start = ctypes.addressof(anchor)
    del anchor
    images = {dst_id_of_process(os.getpid()): [(start, start + len(memory))]}
    return MemoryProof(lambda: images, os.getpid(), whole=True, left_out={}), start


def held(content: bytes, pages: int = PAGES) -> protocol.Held:
    """Return the answer of a target that has restored this content."""
    [(_, digest)] = proof.digests(
        iter([proof.Piece(dst_id=0, start=0, end=len(content))]),
        lambda _, __, view: bool(fill(view, content)),
        {},
    )
    return protocol.Held(stamps=(), pages=pages, proof_us=1, payload=digest or b"")


def fill(view: memoryview, content: bytes) -> int:
    """Write the content to a view, and return its length."""
    view[:] = content
    return len(content)


def test_the_same_memory_is_reported(memory: mmap.mmap) -> None:
    proven, _ = made(memory)
    with proven:
        proven.begin()
        report = proven.compare(held(memory[:]))
    assert (report.whole, report.pages, report.compared, report.unreadable) == (
        True,
        PAGES,
        PAGES,
        0,
    )


def test_the_place_of_a_wrong_byte_is_told(memory: mmap.mmap) -> None:
    proven, start = made(memory)
    wrong = bytearray(memory[:])
    wrong[5000] ^= 1
    with proven, pytest.raises(MemoryDiffers) as raised:
        proven.begin()
        proven.compare(held(bytes(wrong)))
    assert f"memory of process {os.getpid()} at {start:#x} did not arrive as it was frozen" in str(
        raised.value
    )
    assert ", mapped rw-p of nothing" in str(raised.value)
    assert "by now" not in str(raised.value)


def test_a_page_that_changes_on_the_source_is_told_apart(
    memory: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    digested = threading.Event()

    class Watched(FrozenMemory):
        def __exit__(self, *how: object) -> None:
            super().__exit__(*how)
            digested.set()

    monkeypatch.setattr(source_proof, "FrozenMemory", Watched)
    proven, _ = made(memory)
    with proven, pytest.raises(MemoryDiffers, match="is another one on the source by now"):
        proven.begin()
        assert digested.wait(30)
        memory[7] ^= 1
        proven.compare(held(memory[:]))


def test_a_comparison_that_was_not_begun_is_a_defect(memory: mmap.mmap) -> None:
    proven, _ = made(memory)
    with proven, pytest.raises(AssertionError):
        proven.compare(held(memory[:]))


def test_missing_pages_are_told_of(memory: mmap.mmap) -> None:
    proven, _ = made(memory)
    with proven, pytest.raises(MemoryDiffers, match="3 pages of memory arrived of 4"):
        proven.begin()
        proven.compare(held(memory[:], pages=3))
