"""task.py [COUNTER]: a process to dump, and its child, which count in memory.

The number is at a fixed address. Tests read it through /proc/PID/mem, to see whether the process
runs and that it is the same one.
"""

import ctypes
import os
import struct
import sys
import time

REGION = 0x1_0000_0000_00
PAGES = 64
PAGE_SIZE = 4096
COUNTER = struct.Struct("=Q")
PROT_READ_WRITE = 3
MAP_PRIVATE_ANONYMOUS_FIXED = 0x2 | 0x20 | 0x10
PR_SET_PTRACER = 0x59616D61
ANYBODY = ctypes.c_ulong(-1)


def pattern(page: int) -> bytes:
    """Return the content of a page of the region.

    The first page has the counter at its start instead.
    """
    return bytes([page + 1]) * PAGE_SIZE


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    # The kernel writes the number of the processor into the rseq(2) area of a thread, even of a
    # frozen one.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    libc.prctl(
        PR_SET_PTRACER,
        ANYBODY,
        0,
        0,
        0,
        # Yama allows a tracer that is no ancestor only to such a process.
    )
    size = PAGES * PAGE_SIZE
    found = libc.mmap(REGION, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS_FIXED, -1, 0)
    if found != REGION:
        sys.exit("no memory at the fixed address")
    counter = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    # The counter comes in one copy with the pattern, which tests would otherwise take for a
    # counter.
    content = COUNTER.pack(counter) + b"".join(map(pattern, range(PAGES)))[COUNTER.size :]
    ctypes.memmove(REGION, content, size)
    if os.fork() == 0:
        libc.prctl(PR_SET_PTRACER, ANYBODY, 0, 0, 0)
    while True:
        counter += 1
        ctypes.memmove(REGION, COUNTER.pack(counter), COUNTER.size)
        time.sleep(0.002)


if __name__ == "__main__":
    main()
