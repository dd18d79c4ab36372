"""The pager: a thread that gives restored tasks their pages from the page store.

CRIU restores the tasks without their lazy pages. A task that touches a missing page waits until the
pager has copied it from the store. The pager takes the place of `criu lazy-pages`: it listens on
the socket where `criu restore` looks for that program, and CRIU sends each task's userfaultfd there
(criu/uffd.c). Compared with `criu lazy-pages`, nothing has to be started while the container is
frozen, memory comes at the speed of RAM, and the descriptors have a second holder (keeper.py).
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from checkpoint.errors import ImageError
from checkpoint.host.own_process import allow_many_descriptors, protect_from_oom_killer
from checkpoint.host.worker import Worker
from checkpoint.memory.pager.address_spaces import AddressSpaces
from checkpoint.memory.pager.filler import Filler, Served
from checkpoint.memory.pager.keeper import Keeper
from checkpoint.memory.store import LazyRanges, PageStore

#: LAZY_PAGES_SOCK_NAME and LAZY_PAGES_RESTORE_FINISHED of criu/uffd.c.
SOCKET, RESTORED = "lazy-pages.socket", 0x52535446
INTEGER = struct.Struct("=i")


class Pager:
    """The server of one restore, in a thread.

    `lazy` has the lazy ranges by dst_id; the store must have all their pages. `directory` is CRIU's
    work directory for the restore. CRIU's restore must be released only after the pager was made.
    The pager releases the keeper at its end. If the pager fails, it calls `lost` at once, with the
    reason.
    """

    def __init__(
        self,
        directory: Path,
        store: PageStore,
        lazy: LazyRanges,
        keeper: Keeper,
        lost: Callable[[str], None],
    ) -> None:
        self._store, self._keeper = store, keeper
        self._spaces = AddressSpaces(lazy)
        self._filler = Filler(store, self._spaces)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        (directory / SOCKET).unlink(missing_ok=True)  # of a restore that was lost
        self._listener.bind(str(directory / SOCKET))
        self._listener.listen(1)
        self._restore: socket.socket | None = None
        self._wake = os.eventfd(0)
        self._lock, self._ended = threading.Lock(), False
        self._warming = self._filling = self._restored = self._stopped = False
        self._hung_up = threading.Event()
        self._failure: Exception | None = None
        self._worker = Worker("pager", partial(self._run, lost))

    @property
    def served(self) -> Served:
        """The figures of the pager so far."""
        return self._filler.served

    def warm(self) -> None:
        """Start to copy the pages that are written all the time (PageStore.hot).

        The time for it is when all tasks have been restored and do not run yet.
        """
        self._warming = True
        self._poke()

    def fill(self) -> None:
        """Start to copy all missing pages, not only those that tasks touch."""
        self._filling = True
        self._poke()

    def wait(self, timeout_s: float) -> None:
        """Wait until all memory is in place.

        Raises ImageError if it is not within `timeout_s`, and if the pager failed, even if the
        keeper then brought everything; the text says which.
        """
        if not self._worker.wait(timeout_s):
            raise ImageError(f"memory was not in place after {timeout_s:g} s")
        self.check()

    def check(self) -> None:
        """Raise ImageError if the pager has failed, as `wait` does.

        A pager that failed before all tasks were restored does not know them all, and neither does
        the keeper: a task may wait for its pages for ever.
        """
        if self._failure is not None:
            raise ImageError(f"memory was {self._failure}") from self._failure

    def never_let_go(self, timeout_s: float) -> bool:
        """Return whether CRIU has ended before it told this pager that all tasks are restored.

        CRIU lets no task go on before that (criu/cr-restore.c). Returns False if CRIU has not ended
        within `timeout_s`.
        """
        return self._hung_up.wait(timeout_s) and not self._restored

    def stop(self) -> None:
        """End the thread and close all descriptors.

        Allowed only before the tasks run, or after `wait`: tasks without their pages read zeros.
        """
        self._stopped = True
        self._poke()
        self._worker.wait()
        self._hang_up()

    @property
    def connection(self) -> list[int]:
        """The descriptor of the connection from CRIU, if there is one.

        Who goes on with the restore in this process's place must keep a copy of it open: CRIU kills
        the restored tasks if it cannot send LAZY_PAGES_RESTORE_FINISHED.
        """
        return [] if self._restore is None else [self._restore.fileno()]

    def _hang_up(self) -> None:
        """Close the connection from CRIU.

        It stays open when the pager has failed and the keeper goes on: CRIU kills the restored
        tasks if it cannot send LAZY_PAGES_RESTORE_FINISHED.
        """
        if self._restore is not None:
            self._restore.close()

    def _poke(self) -> None:
        with self._lock:
            if not self._ended:
                os.eventfd_write(self._wake, 1)

    def _run(self, lost: Callable[[str], None]) -> None:
        protect_from_oom_killer()
        allow_many_descriptors()
        try:
            self._filler.watch_other(self._listener.fileno())
            self._filler.watch_other(self._wake)
            while not self._stopped and not (self._restored and self._spaces.unfilled() is None):
                for descriptor in self._filler.turn(fill=self._filling):
                    if descriptor == self._wake:
                        os.eventfd_read(self._wake)
                        if self._warming:
                            self._warming = False
                            self._filler.bring_first(self._store.hot())
                    elif self._restore is None:
                        self._restore, _ = self._listener.accept()
                        self._filler.watch_other(self._restore.fileno())
                    elif self._filler.witness is None:
                        # The first task's descriptor has come, and is still in the socket. CRIU
                        # makes the tasks now, and expects no answers; it expected several shortly
                        # after it had connected.
                        self._keeper.follow(self._store, self._spaces.lazy)
                        self._filler.witness = self._keeper
                    elif not self._from_restore(self._restore):
                        self._filler.forget_other(self._restore.fileno())
            self._filler.served.finished_ns = time.monotonic_ns()
            self._keeper.release()
            self._hang_up()
        except Exception as error:  # noqa: BLE001  (the keeper goes on from here)
            self._failure = ImageError(f"not in place: {error}")
            lost(f"the pager failed: {error}")
            if self._keeper.take_over():
                self._failure = ImageError(f"filled in by the stand-by process: {error}")
        finally:
            self._spaces.close_all()
            self._listener.close()
            with self._lock:
                self._ended = True
                os.close(self._wake)

    def _from_restore(self, restore: socket.socket) -> bool:
        """Read one message of CRIU: a task's userfaultfd, or that all tasks are restored.

        Returns False at the end of the connection. If CRIU ends it before all tasks are restored,
        the pager stops. Raises ImageError for a task without a descriptor, or with several.
        """
        data = restore.recv(INTEGER.size, socket.MSG_WAITALL)
        if len(data) < INTEGER.size:
            self._stopped = not self._restored
            self._hung_up.set()
            return False
        (number,) = INTEGER.unpack(data)
        if number == RESTORED:
            self._restored = True
        elif number > 0:  # CRIU sends a negative number for a zombie, which has no memory
            _, fds, flags, _ = socket.recv_fds(restore, 1, 1)
            if not fds or flags & socket.MSG_CTRUNC:
                for fd in fds:
                    os.close(fd)
                raise ImageError(f"CRIU sent no userfaultfd of task {number}, or more than one")
            self._keeper.opened(number, fds[0])
            self._filler.watch(self._spaces.open(fds[0], number))
        return True
