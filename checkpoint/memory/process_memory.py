"""Reading a process's memory without changing how it is shared.

Reading /proc/PID/mem (proc_pid_mem(5)) takes plain references on pages. process_vm_readv(2) pins
them (FOLL_PIN). Before the kernel pins a page that processes share since a fork, it gives the
process that is read a copy of its own (mm/gup.c, gup_must_unshare). The container would grow by all
that its processes share, which its memory limit may not allow.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from checkpoint.host import proc
from checkpoint.memory.ranges import Range
from checkpoint.memory.tracking.write_protection import PAGE_SIZE

READ_BYTES = 1 << 20
#: (start address, content of whole pages).
Chunk = tuple[int, memoryview]


def read_pages(pid: int, ranges: list[Range]) -> Iterator[Chunk]:
    """Yield the content of page-aligned `ranges` of a process in chunks of up to 1 MiB.

    The process may be running or frozen. Pages that have gone meanwhile are left out; if the
    process ends, so is everything from then on. A chunk is valid until the next one is taken.
    Raises OSError if there is no such process.
    """
    buffer = memoryview(bytearray(READ_BYTES))
    with opened_memory(pid) as memory:
        for start, end in ranges:
            at = start
            while at < end:
                got = _read_some(memory, buffer[: end - at], at)
                if got is None:
                    return
                if got:
                    yield at, buffer[:got]
                at += got or PAGE_SIZE


@contextlib.contextmanager
def opened_memory(pid: int) -> Iterator[int]:
    """Open /proc/PID/mem for reading, for the length of a block; yield its descriptor.

    Raises OSError.
    """
    memory = os.open(proc.path(pid, "mem"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield memory
    finally:
        os.close(memory)


def _read_some(memory: int, view: memoryview, address: int) -> int | None:
    """Read whole pages from `address` on into `view`, and return the number of their bytes.

    The number is 0 if the first page cannot be read. Returns None if the process has ended. The
    kernel stops at a page that cannot be read, and fails only if that page is the first
    (fs/proc/base.c, mem_rw).
    """
    try:
        got = os.preadv(memory, [view], address)  # short result: the caller goes on behind it
    except OSError as error:
        if error.errno in (errno.EIO, errno.EFAULT):
            return 0
        raise
    return got - got % PAGE_SIZE if got else None
