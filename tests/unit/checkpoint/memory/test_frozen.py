"""Tests of checkpoint/memory/frozen.py: pages of real processes, by the names of their images."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import pytest

from checkpoint.criu.page_server import PAGE_SIZE, PS_TYPE_SHMEM, dst_id_of_process
from checkpoint.memory.frozen import FrozenMemory
from tests.unit.helpers.obedient import Child

VIRTUAL = 17


@pytest.fixture
def memory(child: Child) -> Iterator[FrozenMemory]:
    with FrozenMemory({VIRTUAL: child.pid}) as memory:
        yield memory


def read(memory: FrozenMemory, image: int, address: int, pages: int = 1) -> bytes | None:
    """Return the content of pages, or None if they cannot be read."""
    view = memoryview(bytearray(pages * PAGE_SIZE))
    return bytes(view) if memory.read(image, address, view) else None


def shared(child: Child, code: str) -> int:
    """Have the child make shared memory, and return its inode number."""
    child.do(code)
    child.do("mapping = open('/proc/self/maps').read().split(f'{start:x}-')[1]")
    return int(child.do("answer = int(mapping.split()[4])"))


MAKE = "shared = mmap.mmap(-1, 8 * 4096, mmap.MAP_SHARED{flags}); shared[4096:8192] = b'b' * 4096"
WHERE = "; start = ctypes.addressof(ctypes.c_char.from_buffer(shared))"


def test_memory_of_a_process_is_read(memory: FrozenMemory, child: Child) -> None:
    assert (
        read(memory, dst_id_of_process(VIRTUAL), child.address + PAGE_SIZE, 2)
        == b"\2" * PAGE_SIZE + b"\3" * PAGE_SIZE
    )
    assert read(memory, dst_id_of_process(VIRTUAL + 1), child.address) is None
    assert read(memory, dst_id_of_process(VIRTUAL), 0x1000) is None, "nothing is mapped there"


def test_anonymous_shared_memory_is_read(memory: FrozenMemory, child: Child) -> None:
    inode = shared(child, MAKE.format(flags=" | mmap.MAP_ANONYMOUS") + WHERE)
    image = inode << 8 | PS_TYPE_SHMEM
    assert read(memory, image, PAGE_SIZE, 2) == b"b" * PAGE_SIZE + bytes(PAGE_SIZE)
    assert read(memory, image, 8 * PAGE_SIZE) is None, "it ends there"
    assert read(memory, inode + 1 << 8 | PS_TYPE_SHMEM, 0) is None


def test_a_memfd_that_no_process_maps_is_read(memory: FrozenMemory, child: Child) -> None:
    child.do("memfd = os.memfd_create('m'); os.pwrite(memfd, b'c' * 4096, 4096)")
    image = int(child.do("answer = os.fstat(memfd).st_ino")) << 8 | PS_TYPE_SHMEM
    assert read(memory, image, 0, 2) == bytes(PAGE_SIZE) + b"c" * PAGE_SIZE


def test_shared_memory_of_other_processes_is_not_looked_at(child: Child) -> None:
    fd = os.memfd_create("other")
    os.write(fd, b"d" * PAGE_SIZE)
    mapped = mmap.mmap(fd, PAGE_SIZE)
    try:
        with FrozenMemory({VIRTUAL: child.pid}) as memory:
            assert read(memory, os.fstat(fd).st_ino << 8 | PS_TYPE_SHMEM, 0) is None
    finally:
        mapped.close()
        os.close(fd)
