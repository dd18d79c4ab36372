"""Bring pages into memory that a userfaultfd watches for missing ones, and read what it tells.

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

from checkpoint.memory.uffd import PAGE_SIZE, ioctl_number

UFFDIO_WAKE = ioctl_number(2, 0xAA, 0x02, 16)
UFFDIO_COPY = ioctl_number(3, 0xAA, 0x03, 40)
UFFDIO_ZEROPAGE = ioctl_number(3, 0xAA, 0x04, 32)
FAULT, FORK, REMAP, REMOVE, UNMAP = 0x12, 0x13, 0x14, 0x15, 0x16
MESSAGE = struct.Struct("=B7x3Q")  # struct uffd_msg


class Event(NamedTuple):
    """One message: FAULT (flags, address), FORK (descriptor), REMAP (from, to, size), REMOVE or UNMAP (start, end)."""

    kind: int
    arguments: tuple[int, int, int]

    def pack(self) -> bytes:
        return MESSAGE.pack(self.kind, *self.arguments)

    @classmethod
    def unpack(cls, data: bytes) -> Event:
        kind, *arguments = MESSAGE.unpack(data)
        if kind == FORK:  # a u32 with nothing defined behind it
            arguments[0] &= 0xFFFFFFFF
        return cls(kind, tuple(arguments))


class Ended(Exception):
    """The address space is gone."""


class NotNow(Exception):
    """The address space is being changed, or there is no memory: to be tried again."""


def next_event(uffd: int) -> Event | None:
    """If one waits to be read. What a process does to its mappings goes on from then on.

    One by one: what is read and not yet passed on is lost to the keeper should we be killed (keeper.py).
    """
    try:
        message = os.read(uffd, MESSAGE.size)  # short result: the kernel gives whole messages
    except BlockingIOError:
        return None
    return Event.unpack(message)


class Buffer:
    """Page-aligned memory of ours whose address the kernel is told."""

    def __init__(self, size: int) -> None:
        self._memory = mmap.mmap(-1, size)
        self.view = memoryview(self._memory)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def copy(self, uffd: int, address: int, size: int) -> int:
        """UFFDIO_COPY of the buffer's first bytes to an address; who waits for them goes on.

        Returns how many bytes are settled there: 0 when some mapping ends within. Raises Ended, NotNow or OSError.
        """
        argument = bytearray(struct.pack("=4Qq", address, self._address, size, 0, 0))
        try:
            fcntl.ioctl(uffd, UFFDIO_COPY, argument)
        except OSError as error:
            copied = struct.unpack_from("=q", argument, 32)[0]
            return copied if copied > 0 else _settled(error, uffd, address, size)
        return size


def zero(uffd: int, address: int) -> None:
    """A page of zeros. Raises Ended, NotNow or OSError."""
    try:
        fcntl.ioctl(uffd, UFFDIO_ZEROPAGE, bytearray(struct.pack("=3Qq", address, PAGE_SIZE, 0, 0)))
    except OSError as error:
        _settled(error, uffd, address, PAGE_SIZE)


def _settled(error: OSError, uffd: int, address: int, size: int) -> int:
    """Bytes that need no copy. The kernel looks at the address space first, at the mapping next, at the page last."""
    if error.errno in (errno.ESRCH, errno.ENOSPC):
        raise Ended from error
    if error.errno in (errno.EAGAIN, errno.ENOMEM):
        raise NotNow from error
    if (
        error.errno == errno.ENOENT and size > PAGE_SIZE
    ):  # no mapping that is watched, or more than one
        return 0
    if error.errno in (errno.EEXIST, errno.ENOENT):
        fcntl.ioctl(uffd, UFFDIO_WAKE, bytearray(struct.pack("=2Q", address, PAGE_SIZE)))
        return PAGE_SIZE
    raise error
