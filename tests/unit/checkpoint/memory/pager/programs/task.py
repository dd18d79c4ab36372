"""A task as CRIU leaves one: its memory has no content, and the test has its userfaultfd.

Run as a program with the number of pages of its mapping. It hands its userfaultfd over first, and
then does what it is told, by the functions below.
"""

import ctypes
import fcntl
import os
import resource  # noqa: F401  (for code that the test sends)
import signal  # noqa: F401
import socket
import struct
import sys
import threading  # noqa: F401

from checkpoint.memory.tracking.write_protection import PAGE_SIZE as PAGE
from checkpoint.memory.tracking.write_protection import UFFDIO_API, UFFDIO_REGISTER
from tests.unit.checkpoint.memory.pager.programs.layout import ELSEWHERE, START  # noqa: F401
from tests.unit.checkpoint.memory.pager.programs.obedience import obey, take_channel

#: Events of a userfaultfd, and its mode for missing pages (include/uapi/linux/userfaultfd.h).
FORK, REMAP, REMOVE, UNMAP, MODE_MISSING = 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1
SYS_USERFAULTFD = 323
READ_WRITE, PRIVATE_ANONYMOUS_FIXED, MAY_MOVE_FIXED = 3, 0x32, 3

channel = take_channel()
libc = ctypes.CDLL(None, use_errno=True)
word = ctypes.c_void_p
libc.mmap.argtypes = [word, word, ctypes.c_int, ctypes.c_int, ctypes.c_int, word]
libc.mremap.argtypes = [word, word, word, ctypes.c_int, word]
libc.mmap.restype = libc.mremap.restype = word
libc.madvise.argtypes = libc.mprotect.argtypes = [word, word, ctypes.c_int]
libc.munmap.argtypes, libc.memcpy.argtypes = [word, word], [word, word, word]


def check(done: bool) -> None:
    """Raise the error of the last system call unless it was done."""
    if not done:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def map_at(start: int, pages: int) -> None:
    """Map anonymous memory at an address, in place of what is mapped there."""
    check(libc.mmap(start, pages * PAGE, READ_WRITE, PRIVATE_ANONYMOUS_FIXED, -1, 0) == start)


def remap(old: int, new: int, pages: int, new_pages: int | None = None) -> None:
    """Move a mapping to another address, and perhaps to another size (mremap(2))."""
    size, new_size = pages * PAGE, (new_pages or pages) * PAGE
    check(libc.mremap(old, size, new_size, MAY_MOVE_FIXED, new) == new)


def dontneed(start: int, pages: int) -> None:
    """Give pages back, which are zeros from then on (madvise(2), MADV_DONTNEED)."""
    check(libc.madvise(start, pages * PAGE, 4) == 0)


def unmap(start: int, pages: int) -> None:
    """Unmap pages."""
    check(libc.munmap(start, pages * PAGE) == 0)


def protect(start: int, pages: int, protection: int) -> None:
    """Change the protection of pages (mprotect(2))."""
    check(libc.mprotect(start, pages * PAGE, protection) == 0)


def read(address: int) -> bytes:
    """Return the content of a page, which is touched by that."""
    copy = ctypes.create_string_buffer(PAGE)
    libc.memcpy(copy, address, PAGE)
    return copy.raw


def stamp(address: int) -> int:
    """Return the number that a page is full of; -1 if it is full of no one number."""
    page = read(address)
    (first,) = struct.unpack_from("=Q", page)
    return int(first) if page == struct.pack("=Q", first) * (PAGE // 8) else -1


def stamps(start: int, pages: int) -> list[int]:
    """Return the numbers that consecutive pages are full of."""
    return [stamp(start + page * PAGE) for page in range(pages)]


def present(start: int, pages: int) -> list[int]:
    """Return the numbers of those pages that are in memory or swapped out, and touch none."""
    with open("/proc/self/pagemap", "rb", 0) as pagemap:
        pagemap.seek(start // PAGE * 8)
        entries = struct.unpack(f"={pages}Q", pagemap.read(pages * 8))
    return [page for page, entry in enumerate(entries) if entry >> 62]


def fork() -> None:
    """Fork a child that obeys the test in its turn, and hand the channel to the child over."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        os.dup2(theirs.fileno(), channel.fileno())
        theirs.close()
        obey(channel, globals())
        os._exit(0)
    theirs.close()
    hand_over(ours.detach())


def hand_over(descriptor: int) -> None:
    """Send a descriptor to the test, and close it here."""
    socket.send_fds(channel, [b"-"], [descriptor])
    os.close(descriptor)


def main() -> None:
    pages = int(sys.argv[1])
    map_at(START, pages)
    uffd = libc.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
    check(uffd >= 0)
    features = FORK | REMAP | REMOVE | UNMAP
    fcntl.ioctl(uffd, UFFDIO_API, bytearray(struct.pack("3Q", 0xAA, features, 0)))
    watched = struct.pack("4Q", START, pages * PAGE, MODE_MISSING, 0)
    fcntl.ioctl(uffd, UFFDIO_REGISTER, bytearray(watched))
    hand_over(uffd)
    obey(channel, globals())


if __name__ == "__main__":
    main()
