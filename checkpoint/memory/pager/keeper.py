"""The keeper: a second process that holds what the pager holds, and goes on if the pager ends.

When the last descriptor of a userfaultfd is closed, the kernel fills in zeros for missing pages,
and the container would run on with them. Two processes therefore hold the descriptors. The pager
tells the keeper of each change of an address space before it acts on the change. As long as the
pager lives, the keeper only follows.

The keeper is forked before the container is frozen. A fork takes some milliseconds, and it slows
the process that forks, which must then copy each page of its own before it writes to it. What is
known only in the freeze comes to the keeper in messages: which pages are lazy, and where the page
store has them.

The keeper does not know which pages the pager has copied. That is harmless, since UFFDIO_COPY
leaves existing pages alone. One window remains: an event that the pager has read, and not passed on
when it is killed some microseconds later, is lost.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from checkpoint.host.detached import Detached
from checkpoint.host.own_process import allow_many_descriptors, keep_to_itself
from checkpoint.host.ram_directory import claim, remove_ram_directory, remove_sockets
from checkpoint.host.worker import Worker
from checkpoint.memory.pager.address_spaces import AddressSpaces
from checkpoint.memory.pager.filler import Filler
from checkpoint.memory.pager.uffd_copy import Event
from checkpoint.memory.store import LazyRanges, PageStore

#: Messages from the pager. The first two come once, in this order: descriptors of the page store,
#: then a file with the store's index and the lazy ranges.
STORED, INDEX = b"s", b"i"
#: A task has been restored: its pid in its own pid namespace, with its userfaultfd.
OPENED = b"o"
#: An event of an address space, with the child's userfaultfd if the event is a fork.
CHANGED = b"c"
#: An address space has all its pages.
FILLED = b"f"
#: The container is held: what the successor needs, pickled in a file, and descriptors.
HELD = b"h"
#: The last message: every address space has all its pages, and the keeper ends.
DONE = b"d"
#: The last message: the pager has failed, but its process lives; the keeper fills in the rest.
FAILED = b"x"
NUMBER = struct.Struct("=Q")
MAX_MESSAGE = 64
#: A function that goes on with a held container in the place of the process that was killed, with
#: what that has handed over. It returns when nothing is left to be done.
Successor = Callable[[Any, list[int]], None]
#: The descriptors of one message; the kernel takes at most 253 (SCM_MAX_FD, unix(7)).
MOST_FDS = 200
#: The time within which the keeper must take a message, and end when it is not needed any more.
PATIENCE_S = 2.0


class Keeper:
    """The pager's handle of the keeper process, which the constructor forks.

    `directory` is the migration's directory in RAM. The keeper claims it, and removes it if the
    pager's process was killed. `succeed` is called in the keeper if that happens after `hold`.
    """

    def __init__(self, directory: Path, succeed: Successor | None = None) -> None:
        self._follows = self._ended = False
        self._process = Detached(
            lambda pager: _stand_by(pager, directory, succeed), patience_s=PATIENCE_S
        )

    @property
    def pid(self) -> int:
        """The pid of the keeper process."""
        return self._process.pid

    def follow(self, store: PageStore, lazy: LazyRanges) -> None:
        """Hand over what the keeper needs to go on in the pager's place.

        The store must not change any more. `lazy` has the lazy ranges by dst_id.
        """
        descriptors = store.descriptors()
        for first in range(0, len(descriptors), MOST_FDS):
            self._process.tell(STORED, *descriptors[first : first + MOST_FDS])
        with open(os.memfd_create("index"), "wb") as file:
            pickle.dump((store.index(), lazy), file)
            file.flush()
            self._process.tell(INDEX, file.fileno())
        self._follows = True

    def hold(self, needed: object, descriptors: Sequence[int]) -> None:
        """Hand over what goes on with a held container in this process's place.

        The keeper calls `succeed` with `needed`, which can be pickled, and with copies of the
        descriptors in their order.
        """
        with open(os.memfd_create("held"), "wb") as file:
            pickle.dump(needed, file)
            file.flush()
            self._process.tell(HELD, file.fileno(), *descriptors)

    def opened(self, pid: int, uffd: int) -> None:
        """Tell that a task's userfaultfd came. `pid` is the task's in its pid namespace."""
        self._process.tell(OPENED + NUMBER.pack(pid), uffd)

    def changed(self, number: int, event: Event, uffd: int) -> None:
        """Tell of an event that changes an address space. `uffd` is a fork's child's, or -1."""
        self._process.tell(
            CHANGED + NUMBER.pack(number) + event.pack(), *([uffd] if uffd >= 0 else [])
        )

    def filled(self, number: int) -> None:
        """Tell that an address space has all its pages."""
        self._process.tell(FILLED + NUMBER.pack(number))

    def release(self) -> None:
        """Tell that the keeper is not needed any more, and wait for its end if it has not ended."""
        if not self._ended:
            self._ended = True
            self._process.release(DONE)

    def take_over(self) -> bool:
        """Have the keeper copy all missing pages, and wait for its end.

        Returns whether the keeper has brought everything. It cannot unless it was told to `follow`.
        """
        self._ended = True
        return self._process.result(FAILED) and self._follows


def _stand_by(pager: socket.socket, directory: Path, succeed: Successor | None) -> None:
    """Be the keeper process, to its end."""
    allow_many_descriptors()
    keep_to_itself()
    killed = _StandBy(pager, directory, succeed).serve()
    # An agent that lives still needs its directory, and removes it by itself.
    if killed:
        remove_ram_directory(directory)
        remove_sockets(directory)


class _StandBy:
    """The keeper process itself."""

    def __init__(self, pager: socket.socket, directory: Path, succeed: Successor | None) -> None:
        self._pager, self._succeed = pager, succeed
        self._held: tuple[Any, list[int]] | None = None
        self._stored: list[int] = []
        self._store, self._spaces = PageStore(directory), AddressSpaces({})
        # The claim lasts until this process ends; the agent may end before.
        claim(directory)

    def serve(self) -> bool:
        """Follow the pager's messages; if the pager goes without DONE, copy all missing pages.

        Returns whether the pager was killed. After DONE the process exits. It also exits, with
        status 1, if a descriptor was lost because none was free: the keeper could not follow any
        further.
        """
        while True:
            message, fds, flags, _ = socket.recv_fds(self._pager, MAX_MESSAGE, MOST_FDS)
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                os._exit(1)
            if message == DONE:
                os._exit(0)
            if message in (b"", FAILED):
                break
            self._follow(message, fds)
        filling = Worker("filler", self._fill)
        if not message and self._held is not None and self._succeed is not None:
            self._succeed(*self._held)
        filling.result()
        return not message

    def _fill(self) -> None:
        filler = Filler(self._store, self._spaces)
        for number in self._spaces.numbers():
            filler.watch(number)
        while self._spaces.unfilled() is not None:
            filler.turn(fill=True)

    def _follow(self, message: bytes, fds: list[int]) -> None:
        kind = message[:1]
        if kind == STORED:
            self._stored += fds
        elif kind == INDEX:
            with open(fds[0], "rb") as file:
                file.seek(0)  # pager and keeper share the position in the file
                index, lazy = pickle.load(file)  # noqa: S301  (this program wrote it)
            self._store.share(index, self._stored)
            self._spaces = AddressSpaces(lazy)
        elif kind == HELD:
            with open(fds[0], "rb") as file:
                file.seek(0)
                self._held = pickle.load(file), fds[1:]  # noqa: S301  (as above)
        else:
            self._change(kind, message, fds[0] if fds else -1)

    def _change(self, kind: bytes, message: bytes, uffd: int) -> None:
        (number,) = NUMBER.unpack_from(message, 1)
        if kind == OPENED:
            self._spaces.open(uffd, number)
        elif kind == FILLED:
            self._spaces.close(number)
        else:
            self._spaces.change(number, Event.unpack(message[1 + NUMBER.size :]), uffd)
