"""Tests of checkpoint/memory/process_memory.py: pages of real processes, read without a trace."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from checkpoint.memory.process_memory import READ_BYTES, read_pages
from checkpoint.memory.ranges import Range
from checkpoint.memory.tracking.write_protection import PAGE_SIZE
from tests.unit.helpers.obedient import PAGES, Child


def content(pid: int, wanted: list[Range]) -> bytes:
    return b"".join(bytes(data) for _, data in read_pages(pid, wanted))


def test_each_chunk_says_where_its_pages_are(child: Child) -> None:
    wanted = [
        (child.address + page * PAGE_SIZE, child.address + (page + 1) * PAGE_SIZE)
        for page in (2, 9, 11)
    ]
    found = [(start, bytes(data)) for start, data in read_pages(child.pid, wanted)]
    assert found == [
        (start, bytes([page + 1]) * PAGE_SIZE)
        for (start, _), page in zip(wanted, (2, 9, 11), strict=True)
    ]


def test_chunks_are_bounded_and_complete(child: Child) -> None:
    sizes = [len(data) for _, data in read_pages(child.pid, child.buffer)]
    assert sum(sizes) == PAGES * PAGE_SIZE > READ_BYTES
    assert max(sizes) <= READ_BYTES
    assert content(child.pid, child.buffer) == b"".join(
        bytes([page % 250 + 1]) * PAGE_SIZE for page in range(PAGES)
    )


def test_pages_that_went_away_are_left_out(child: Child) -> None:
    child.do(f"libc.munmap(ctypes.c_void_p(address + {PAGE_SIZE}), {PAGE_SIZE})")
    found = [
        page
        for start, data in read_pages(child.pid, child.buffer)
        for page in range(start, start + len(data), PAGE_SIZE)
    ]
    every = range(*child.buffer[0], PAGE_SIZE)
    assert found == [page for page in every if page != child.address + PAGE_SIZE]


def test_pages_made_unreadable_are_read_all_the_same(child: Child) -> None:
    assert child.do(f"answer = libc.mprotect(ctypes.c_void_p(address), {PAGE_SIZE}, 0)") == 0
    assert content(child.pid, [(child.address, child.address + 2 * PAGE_SIZE)]) == (
        b"\x01" * PAGE_SIZE + b"\x02" * PAGE_SIZE
    )


def test_a_process_that_ends_is_read_no_further(child: Child) -> None:
    wanted = [(page, page + PAGE_SIZE) for page in range(*child.buffer[0], PAGE_SIZE)]
    chunks = read_pages(child.pid, wanted)
    next(chunks)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert list(chunks) == []


def test_of_a_process_that_is_gone_nothing_can_be_read() -> None:
    with pytest.raises(FileNotFoundError):
        list(read_pages(1 << 22, [(PAGE_SIZE, 2 * PAGE_SIZE)]))


@contextmanager
def forked_with(memory_bytes: int) -> Iterator[tuple[int, Range]]:
    """Yield (pid, address range) of a child that shares anonymous memory with this process.

    The child and this process share it since the fork.
    """
    memory = mmap.mmap(-1, memory_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(b"\x5a" * memory_bytes)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    try:
        yield pid, (start, start + memory_bytes)
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


def kib(pid: int, name: str) -> int:
    """Return a field of a process's smaps_rollup."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise KeyError(name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
def test_what_processes_share_since_a_fork_they_still_share_after_it_was_read() -> None:
    with forked_with(16 << 20) as (pid, where):
        assert kib(pid, "Shared_Dirty") > 16 << 10
        assert content(pid, [where]) == b"\x5a" * (16 << 20)
        assert kib(pid, "Shared_Dirty") > 16 << 10
