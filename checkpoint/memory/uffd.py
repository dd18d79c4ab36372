"""Write tracking by userfaultfd WP_ASYNC and PAGEMAP_SCAN (Linux 6.7 and newer).

Kernel: Documentation/admin-guide/mm/{userfaultfd,pagemap}.rst, include/uapi/linux/{userfaultfd,fs}.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import struct

from checkpoint.host import proc
from checkpoint.memory import ranges
from checkpoint.memory.inject import SYS_USERFAULTFD, UFFD_USER_MODE_ONLY, libc
from checkpoint.memory.ranges import Range

PAGE_SIZE = 4096
#: Scanned up to here: the user half of the address space without its last page.
TASK_END = (1 << 47) - PAGE_SIZE


def ioctl_number(direction: int, kind: int, number: int, size: int) -> int:
    """_IOC of include/uapi/asm-generic/ioctl.h."""
    return direction << 30 | size << 16 | kind << 8 | number


UFFDIO_API = ioctl_number(3, 0xAA, 0x3F, 24)
UFFDIO_REGISTER = ioctl_number(3, 0xAA, 0x00, 32)
PAGEMAP_SCAN = ioctl_number(3, ord("f"), 16, 96)
UFFD_API = 0xAA
FEATURES = (1 << 0) | (1 << 13) | (1 << 15)  # PAGEFAULT_FLAG_WP, WP_UNPOPULATED, WP_ASYNC
REGISTER_MODE_WP = 2
IS_WRITTEN, IS_FILE, IS_PRESENT, IS_SWAPPED, IS_PFNZERO = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5
SCAN_WP_MATCHING = 1
SCAN_ARGUMENT = struct.Struct("12Q")
REGIONS = 1 << 15
#: Mappings that are not the process's own memory.
SPECIAL = ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]")


def enable(uffd: int) -> None:
    """UFFDIO_API with asynchronous write protection. Raises OSError where the kernel lacks it."""
    fcntl.ioctl(uffd, UFFDIO_API, bytearray(struct.pack("3Q", UFFD_API, FEATURES, 0)))


def available() -> bool:
    """Whether this kernel can do both, tried on a userfaultfd of our own and our own pages (x86_64 only)."""
    if platform.machine() != "x86_64":
        return False
    fd = libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK | UFFD_USER_MODE_ONLY)
    if fd < 0:
        return False
    try:
        enable(fd)
        scan_unprotected(os.getpid())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def private_mappings(pid: int) -> list[Range]:
    """The private mappings of a process, whose pages CRIU may leave to us."""
    return [
        (mapping.start, mapping.end)
        for mapping in proc.mappings(pid)
        if mapping.permissions[3] == "p" and mapping.path not in SPECIAL and mapping.end <= TASK_END
    ]


def register(uffd: int, mappings: list[Range]) -> int:
    """Watch mappings; registering one again is no error. Returns how many could not be watched.

    One that another userfaultfd owns (EBUSY), or that went away meanwhile, is simply not watched: no round
    reports its pages, and the last look reports them all.
    """
    failed = 0
    for start, end in mappings:
        try:
            fcntl.ioctl(
                uffd,
                UFFDIO_REGISTER,
                bytearray(struct.pack("4Q", start, end - start, REGISTER_MODE_WP, 0)),
            )
        except OSError:
            failed += 1
    return failed


def scan_written(pid: int) -> list[Range]:
    """Pages with content that were written since they were last protected, which they are again in the same step.

    So no write is missed in between. Mappings that are not watched are left out.
    """
    # Neither file-backed nor the zero page, and present or swapped out.
    return _scan(
        pid,
        SCAN_WP_MATCHING,
        IS_FILE | IS_PFNZERO,
        IS_WRITTEN | IS_FILE | IS_PFNZERO,
        IS_PRESENT | IS_SWAPPED,
    )


def scan_unprotected(pid: int) -> list[Range]:
    """All addresses but those of pages that were not written since they were last protected.

    Who looks so last, with the process frozen, misses nothing. To ask for nothing else makes this several times as
    fast (pagemap_scan_pmd_entry of fs/proc/task_mmu.c).
    """
    return _scan(pid, 0, 0, IS_WRITTEN, 0)


def _scan(pid: int, flags: int, inverted: int, mask: int, any_of: int) -> list[Range]:
    """PAGEMAP_SCAN of a whole address space.

    The page map is opened anew each time: after an exec the old one still shows the old memory.
    A walk that ends without having filled the buffer is complete, whatever `walk_end` says: of one with more than 512
    regions the kernel does not put it forward to the end (fs/proc/task_mmu.c, do_pagemap_scan, as of 6.18).
    """
    found: list[Range] = []
    regions = (ctypes.c_uint64 * (3 * REGIONS))()
    with contextlib.ExitStack() as stack:
        pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, pagemap)
        start = 0
        while start < TASK_END:
            argument = bytearray(
                SCAN_ARGUMENT.pack(
                    SCAN_ARGUMENT.size,
                    flags,
                    start,
                    TASK_END,
                    0,
                    ctypes.addressof(regions),
                    REGIONS,
                    0,
                    inverted,
                    mask,
                    any_of,
                    IS_WRITTEN,
                )
            )
            count = fcntl.ioctl(pagemap, PAGEMAP_SCAN, argument)
            words = memoryview(regions).cast("B").cast("Q")[: 3 * count].tolist()
            batch = list(zip(words[0::3], words[1::3], strict=True))
            found = ranges.union(found, batch) if found else batch
            start = SCAN_ARGUMENT.unpack(argument)[4] if count == REGIONS else TASK_END
    return found
