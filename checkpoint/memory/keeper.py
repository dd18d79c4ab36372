"""A second process that holds what the pager holds, to go on with it should the pager end.

When the last descriptor of a userfaultfd is closed the kernel fills in zeros, and the container would run on with them.
So there are two holders. This one is told of each change before the pager follows it, and does nothing else as long
as the pager lives. What it cannot know is how far the pager was: a page that is there already stays as it is. And not
what the pager was killed with between reading it and telling it, some microseconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import warnings
from pathlib import Path

from checkpoint.host.ready import ready
from checkpoint.host.secrecy import keep_to_itself
from checkpoint.images.directory import claim, remove_ram_directory, remove_sockets
from checkpoint.memory.address_spaces import AddressSpaces
from checkpoint.memory.filler import Filler
from checkpoint.memory.store import PageStore
from checkpoint.memory.uffd_fill import Event

#: A task's number in its namespace, and its descriptor; a change; nothing is missing there, or anywhere.
OPENED, CHANGED, FILLED, DONE = b"o", b"c", b"f", b"d"
NUMBER = struct.Struct("=Q")
MAX_MESSAGE = 64
#: The process's pages are locked in RAM when so long nothing was told: that is a walk over all of the agent's memory,
#: some milliseconds, and the container stands still when the process is forked.
QUIET_S = 1.0


class Keeper:
    """The process, from the side of the pager, that is forked from here."""

    def __init__(self, spaces: AddressSpaces, store: PageStore, directory: Path) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with warnings.catch_warnings():
            # Of threads that do not exist in the child: it asks nothing of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                _StandBy(theirs, spaces, store, directory.parent).serve()
                remove_ram_directory(directory.parent)
                remove_sockets(directory.parent)  # the agent was killed
                status = 0
            finally:
                os._exit(status)
        theirs.close()

    def opened(self, pid: int, uffd: int) -> None:
        """A task's userfaultfd came."""
        self._tell(OPENED + NUMBER.pack(pid), uffd)

    def changed(self, number: int, event: Event, uffd: int) -> None:
        """An event was read that changes an address space. A fork comes with the child's `uffd`."""
        self._tell(CHANGED + NUMBER.pack(number) + event.pack(), uffd)

    def filled(self, number: int) -> None:
        """Nothing is missing in an address space any more."""
        self._tell(FILLED + NUMBER.pack(number), -1)

    def release(self) -> None:
        """Nothing is missing anywhere."""
        self._tell(DONE, -1)
        self.take_over()

    def take_over(self) -> bool:
        """Have it go on alone, until it is done. Whether it brought everything."""
        self._socket.close()
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status) == 0

    def _tell(self, message: bytes, uffd: int) -> None:
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # it was killed; the pager is there
            socket.send_fds(self._socket, [message], [uffd] if uffd >= 0 else [])


class _StandBy:
    """The process itself."""

    def __init__(
        self, pager: socket.socket, spaces: AddressSpaces, store: PageStore, directory: Path
    ) -> None:
        self._pager, self._spaces, self._store = pager, spaces, store
        claimed = claim(directory)  # until this process ends; the agent may end before it
        os.setsid()  # what is sent to the agent and its group is not for this one
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        _close_all_but({pager.fileno(), claimed, *store.descriptors()})

    def serve(self) -> None:
        """Follow until the pager is done, or gone; then go on in its place."""
        locked = False
        while True:
            if not locked and not ready(self._pager.fileno(), timeout_s=QUIET_S):
                keep_to_itself()
                locked = True
            message, fds, flags, _ = socket.recv_fds(self._pager, MAX_MESSAGE, 1)
            if flags & (
                socket.MSG_TRUNC | socket.MSG_CTRUNC
            ):  # no descriptor is free: this one can follow no further
                os._exit(1)
            if message == DONE:
                os._exit(0)
            if not message:
                break
            self._follow(message, fds[0] if fds else -1)
        if not locked:
            keep_to_itself()
        filler = Filler(self._store, self._spaces)
        for number in self._spaces.numbers():
            filler.watch(number)
        while self._spaces.unfilled() is not None:
            filler.turn(fill=True)

    def _follow(self, message: bytes, uffd: int) -> None:
        (number,) = NUMBER.unpack_from(message, 1)
        if message[:1] == OPENED:
            self._spaces.open(uffd, number)
        elif message[:1] == FILLED:
            self._spaces.close(number)
        else:
            self._spaces.change(number, Event.unpack(message[1 + NUMBER.size :]), uffd)


def _close_all_but(kept: set[int]) -> None:
    """The channel to the coordinator, for one, must end with the agent."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
