"""The userfaultfd of a restored task: reading its events, copying missing pages.

Kernel: Documentation/admin-guide/mm/userfaultfd.rst, include/uapi/linux/userfaultfd.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from typing import NamedTuple

from checkpoint.memory.tracking.write_protection import PAGE_SIZE, ioctl_number

UFFDIO_WAKE = ioctl_number(2, 0xAA, 0x02, 16)
UFFDIO_COPY = ioctl_number(3, 0xAA, 0x03, 40)
UFFDIO_ZEROPAGE = ioctl_number(3, 0xAA, 0x04, 32)
FAULT, FORK, REMAP, REMOVE, UNMAP = 0x12, 0x13, 0x14, 0x15, 0x16
MESSAGE = struct.Struct("=B7x3Q")  # struct uffd_msg


class Event(NamedTuple):
    """One message of a userfaultfd (struct uffd_msg).

    `arguments` by `kind`: FAULT (flags, address), FORK (descriptor), REMAP (from, to, size), REMOVE
    and UNMAP (start, end). What remains of the three numbers has no meaning.
    """

    kind: int
    arguments: tuple[int, int, int]

    def pack(self) -> bytes:
        return MESSAGE.pack(self.kind, *self.arguments)

    @classmethod
    def unpack(cls, data: bytes) -> Event:
        kind, *arguments = MESSAGE.unpack(data)
        if kind == FORK:  # the descriptor is a u32, and what follows is undefined
            arguments[0] &= 0xFFFFFFFF
        return cls(kind, tuple(arguments))


class Ended(Exception):
    """The error of an address space that is gone."""


class NotNow(Exception):
    """The error of a copy that must be tried again.

    The address space is being changed, or there is no free memory.
    """


def next_event(uffd: int) -> Event | None:
    """Read the next event that waits, or return None.

    A process that forks or changes its mappings is blocked until its event has been read. Events
    are read one at a time: if the pager is killed, the keeper loses every event that the pager has
    read and not passed on (keeper.py).
    """
    try:
        message = os.read(uffd, MESSAGE.size)  # short result: the kernel gives whole messages
    except BlockingIOError:
        return None
    return Event.unpack(message)


class Buffer:
    """A page-aligned buffer of this process, from which UFFDIO_COPY copies."""

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size)
        self.view = memoryview(self._memory)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def copy(self, uffd: int, address: int, size: int) -> int:
        """Copy the buffer's first `size` bytes to an address (UFFDIO_COPY); wake its waiters.

        Returns how many bytes from the address on need no further copy; 0 if a mapping ends within
        the bytes. Raises Ended, NotNow or OSError.
        """
        argument = bytearray(struct.pack("=4Qq", address, self._address, size, 0, 0))
        try:
            fcntl.ioctl(uffd, UFFDIO_COPY, argument)
        except OSError as error:
            copied = struct.unpack_from("=q", argument, 32)[0]
            return copied if copied > 0 else _settled(error, uffd, address, size)
        return size


def zero(uffd: int, address: int) -> None:
    """Put a page of zeros at an address (UFFDIO_ZEROPAGE). Raises Ended, NotNow or OSError."""
    try:
        fcntl.ioctl(uffd, UFFDIO_ZEROPAGE, bytearray(struct.pack("=3Qq", address, PAGE_SIZE, 0, 0)))
    except OSError as error:
        _settled(error, uffd, address, PAGE_SIZE)


def _settled(error: OSError, uffd: int, address: int, size: int) -> int:
    """Interpret a copy that failed: return the bytes that need none, or raise.

    The kernel checks the address space first, the mapping next, the page last.
    ESRCH, ENOSPC: the address space is gone (raises Ended).
    EAGAIN, ENOMEM: try again (raises NotNow).
    ENOENT for several pages: no mapping there is watched, or more than one mapping is (returns 0).
    EEXIST, or ENOENT for one page: the page is there or needs none. Its waiter is woken (returns
    PAGE_SIZE).
    """
    if error.errno in (errno.ESRCH, errno.ENOSPC):
        raise Ended from error
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        raise NotNow from error
    if error.errno == errno.ENOENT and size > PAGE_SIZE:
        return 0
    if error.errno in (errno.EEXIST, errno.ENOENT):
        fcntl.ioctl(uffd, UFFDIO_WAKE, bytearray(struct.pack("=2Q", address, PAGE_SIZE)))
        return PAGE_SIZE
    raise error
