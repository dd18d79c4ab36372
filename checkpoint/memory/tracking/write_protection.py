"""Write tracking by userfaultfd WP_ASYNC and PAGEMAP_SCAN (Linux 6.7 and newer).

Kernel: Documentation/admin-guide/mm/{userfaultfd,pagemap}.rst,
include/uapi/linux/{userfaultfd,fs}.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import struct

from checkpoint.host import kernel, proc
from checkpoint.memory import ranges
from checkpoint.memory.ranges import Range

PAGE_SIZE = 4096
#: The end of what is scanned: the user half of the address space without its last page.
TASK_END = (1 << 47) - PAGE_SIZE


def ioctl_number(direction: int, kind: int, number: int, size: int) -> int:
    """Return an ioctl number, as _IOC of include/uapi/asm-generic/ioctl.h makes it."""
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
#: Names of mappings that are the kernel's and not the process's own memory.
SPECIAL = ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]")


def enable(uffd: int) -> None:
    """Enable asynchronous write protection on a userfaultfd (UFFDIO_API).

    Raises OSError if the kernel does not have it.
    """
    fcntl.ioctl(uffd, UFFDIO_API, bytearray(struct.pack("3Q", UFFD_API, FEATURES, 0)))


def available() -> bool:
    """Return whether this kernel has both WP_ASYNC and PAGEMAP_SCAN (x86_64 only).

    Both are tried on the calling process itself.
    """
    if platform.machine() != "x86_64":
        return False
    try:
        fd = kernel.userfaultfd(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
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
    """Return the private mappings of a process: the pages that CRIU can leave to the tracker.

    Raises OSError and ProcError.
    """
    return [
        (mapping.start, mapping.end)
        for mapping in proc.mappings(pid)
        if mapping.permissions[3] == "p" and mapping.path not in SPECIAL and mapping.end <= TASK_END
    ]


def register(uffd: int, mappings: list[Range]) -> int:
    """Register mappings for write protection, and return how many could not be registered.

    A mapping may be registered again. A mapping that belongs to another userfaultfd (EBUSY), or
    that has gone meanwhile, is not watched: `scan_written` reports none of its pages,
    `scan_unprotected` reports all of them.
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
    """Return the pages written since they were last protected, and protect them again.

    The kernel does both in one step, so that no write is missed in between. Pages without content
    of their own are left out, and so are mappings that are not registered. Raises OSError.
    """
    # Pages with content of their own are neither file-backed nor the zero page, and they are
    # present or swapped out.
    return _scan(
        pid,
        SCAN_WP_MATCHING,
        IS_FILE | IS_PFNZERO,
        IS_WRITTEN | IS_FILE | IS_PFNZERO,
        IS_PRESENT | IS_SWAPPED,
    )


def scan_unprotected(pid: int) -> list[Range]:
    """Return all addresses except those of pages that are still write-protected.

    The scan misses nothing once the process is frozen. It asks the kernel for written pages alone,
    because such a scan takes a fast path (pagemap_scan_pmd_entry of fs/proc/task_mmu.c) and is
    several times as fast. Raises OSError.
    """
    return _scan(pid, 0, 0, IS_WRITTEN, 0)


def _scan(pid: int, flags: int, inverted: int, mask: int, any_of: int) -> list[Range]:
    """Run PAGEMAP_SCAN over a whole address space, and return the ranges that match.

    The arguments are fields of struct pm_scan_arg: flags, category_inverted, category_mask and
    category_anyof_mask. The page map is opened anew for each scan: after an exec an open one still
    shows the old memory. A walk that did not fill the buffer is complete, whatever `walk_end` says:
    if there were more than 512 regions, the kernel does not advance `walk_end` to the end
    (fs/proc/task_mmu.c, do_pagemap_scan, as of 6.18).
    """
    found: list[Range] = []
    regions = (ctypes.c_uint64 * (3 * REGIONS))()
    with contextlib.ExitStack() as stack:
        pagemap = os.open(proc.path(pid, "pagemap"), os.O_RDONLY | os.O_CLOEXEC)
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
