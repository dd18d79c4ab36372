"""The keeper: a second process that holds what the pager holds, and goes on if the pager ends.

When the last descriptor of a userfaultfd is closed, the kernel fills in zeros for missing pages,
and the container would run on with them. Two processes therefore hold the descriptors. The pager
tells the keeper of each change of an address space before it acts on the change. As long as the
pager lives, the keeper only follows.

The keeper does not know which pages the pager has copied. That is harmless, since UFFDIO_COPY
leaves existing pages alone. One window remains: an event that the pager has read, and not passed on
when it is killed some microseconds later, is lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import warnings
from pathlib import Path

from checkpoint.host.ram_directory import claim, remove_ram_directory, remove_sockets
from checkpoint.host.ready import ready
from checkpoint.host.secrecy import keep_to_itself
from checkpoint.memory.pager.address_spaces import AddressSpaces
from checkpoint.memory.pager.filler import Filler
from checkpoint.memory.pager.uffd_copy import Event
from checkpoint.memory.store import PageStore

#: Messages from the pager: a task's pid in its namespace with its userfaultfd; an event of an
#: address space, with the child's userfaultfd if it is a fork; an address space has all its pages;
#: all have; the pager has failed and its process lives.
OPENED, CHANGED, FILLED, DONE, FAILED = b"o", b"c", b"f", b"d", b"x"
NUMBER = struct.Struct("=Q")
MAX_MESSAGE = 64
#: The keeper locks its pages in RAM once no message came for so long. Locking walks all of the
#: memory inherited from the agent, which takes some milliseconds, and the container is frozen when
#: the keeper is forked.
QUIET_S = 1.0


class Keeper:
    """The pager's handle of the keeper process, which the constructor forks."""

    def __init__(self, spaces: AddressSpaces, store: PageStore, directory: Path) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as undo, warnings.catch_warnings():
            undo.callback(self._socket.close)
            undo.callback(theirs.close)
            # Python warns of a fork while there are threads. The keeper needs none of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
            undo.pop_all()
        if self.pid == 0:
            status = 1
            try:
                killed = _StandBy(theirs, spaces, store, directory.parent).serve()
                # An agent that lives still needs its directory, and removes it by itself.
                if killed:
                    remove_ram_directory(directory.parent)
                    remove_sockets(directory.parent)
                status = 0
            finally:
                os._exit(status)
        theirs.close()

    def opened(self, pid: int, uffd: int) -> None:
        """Tell that a task's userfaultfd came. `pid` is the task's in its pid namespace."""
        self._tell(OPENED + NUMBER.pack(pid), uffd)

    def changed(self, number: int, event: Event, uffd: int) -> None:
        """Tell of an event that changes an address space. `uffd` is a fork's child's, or -1."""
        self._tell(CHANGED + NUMBER.pack(number) + event.pack(), uffd)

    def filled(self, number: int) -> None:
        """Tell that an address space has all its pages."""
        self._tell(FILLED + NUMBER.pack(number), -1)

    def release(self) -> None:
        """Tell that all address spaces have all their pages, and wait for the process to end."""
        self._tell(DONE, -1)
        self._await_end()

    def take_over(self) -> bool:
        """Have the keeper copy all missing pages, and wait for its end.

        Returns whether the keeper has brought everything.
        """
        self._tell(FAILED, -1)
        return self._await_end()

    def _await_end(self) -> bool:
        """Wait for the keeper's end, and return whether it had status 0."""
        self._socket.close()
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status) == 0

    def _tell(self, message: bytes, uffd: int) -> None:
        # If the keeper was killed, the pager is still there.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._socket, [message], [uffd] if uffd >= 0 else [])


class _StandBy:
    """The keeper process itself."""

    def __init__(
        self, pager: socket.socket, spaces: AddressSpaces, store: PageStore, directory: Path
    ) -> None:
        self._pager, self._spaces, self._store = pager, spaces, store
        # The claim lasts until this process ends; the agent may end before.
        claimed = claim(directory)
        os.setsid()  # signals for the agent's process group are not for the keeper
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        _close_all_but({pager.fileno(), claimed, *store.descriptors()})

    def serve(self) -> bool:
        """Follow the pager's messages; if the pager goes without DONE, copy all missing pages.

        Returns whether the pager was killed. After DONE the process exits. It also exits, with
        status 1, if a descriptor was lost because none was free: the keeper could not follow any
        further.
        """
        locked = False
        while True:
            if not locked and not ready(self._pager.fileno(), timeout_s=QUIET_S):
                keep_to_itself()
                locked = True
            message, fds, flags, _ = socket.recv_fds(self._pager, MAX_MESSAGE, 1)
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                os._exit(1)
            if message == DONE:
                os._exit(0)
            if message in (b"", FAILED):
                break
            self._follow(message, fds[0] if fds else -1)
        if not locked:
            keep_to_itself()
        filler = Filler(self._store, self._spaces)
        for number in self._spaces.numbers():
            filler.watch(number)
        while self._spaces.unfilled() is not None:
            filler.turn(fill=True)
        return not message

    def _follow(self, message: bytes, uffd: int) -> None:
        (number,) = NUMBER.unpack_from(message, 1)
        if message[:1] == OPENED:
            self._spaces.open(uffd, number)
        elif message[:1] == FILLED:
            self._spaces.close(number)
        else:
            self._spaces.change(number, Event.unpack(message[1 + NUMBER.size :]), uffd)


def _close_all_but(kept: set[int]) -> None:
    """Close all inherited descriptors except `kept`; standard streams become /dev/null.

    The channel to the coordinator, for one, must end when the agent ends.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
