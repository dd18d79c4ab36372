"""The target's end of the page channels.

Each channel has a thread, which checks and unpacks its batches in parallel with the others. The
batches then take effect one after the other, in the order of their numbers.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from threading import Condition

from checkpoint.criu.images.pagemap import PageImages
from checkpoint.errors import ImageError
from checkpoint.host.listener import Listener
from checkpoint.host.ram_directory import directory_of
from checkpoint.memory.store import PageStore
from migrate.agent.plug_command import PLUGGED
from migrate.memory import batches
from migrate.memory.batches import Extent
from migrate.wire import protocol
from migrate.wire.protocol import ProtocolError
from transport.errors import EndOfStream, IncompleteFrame, StreamError
from transport.framing import Descriptors, FrameStream, widen_pipe

DRAIN_BYTES = 1 << 20

#: A function that puts one batch in place: its message, and its extents, unpacked.
Put = Callable[[protocol.Pages, Iterator[Extent]], None]


def socket_path(migration_id: str) -> Path:
    """Return the path of the unix socket at which a migration's agent takes page channels."""
    return directory_of(migration_id) / "pages.sock"


def put_into(store: PageStore, page_images: PageImages) -> Put:
    """Return the function that puts a batch's pages in place.

    Pages of CRIU's dump go to its image files, all others to the page store.
    """

    def put(message: protocol.Pages, extents: Iterable[Extent]) -> None:
        for dst_id in message.forget:
            store.forget(dst_id)
        for dst_id, vaddr, pages, flags, data in extents:
            if message.into_images:
                page_images.extent(dst_id, vaddr, pages, flags, data)
            else:
                store.put(dst_id, vaddr, data)

    return put


class PageReceiver:
    """The receiver of `channels` page channels, which come to the unix socket `path`.

    Use it as a context. agent/plug.py hands each channel to the socket. `put` is called with one
    batch at a time, in the order of their numbers. A batch that is waited for longer than
    `patience_s` is lost. The first failure is kept for `check` and `wait`. After it the channels
    are still read, and what they bring is dropped, so that the source never blocks.

    While the receiver is `lasting`, a lost channel is no failure: others may come in the place of
    all of them (`renew`), and a batch is waited for without limit.
    """

    def __init__(
        self, path: Path, channels: int, put: Put, patience_s: float, *, lasting: bool = False
    ) -> None:
        self._path, self._channels, self._put = path, channels, put
        self._patience_s = patience_s
        self._lasting, self._broke = lasting, False
        #: How often other channels came in the place of all.
        self._renewed = 0
        self._plugs: list[socket.socket] = []
        self._turn = Condition()
        self._next = self._ended = 0
        #: The batches that wait for others, each with the count of `_renewed` when it came.
        self._waiting: dict[int, int] = {}
        self._failure: Exception | None = None
        self._closed = False

    def __enter__(self) -> PageReceiver:
        self._listener = Listener(self._path, self._serve, "pages")
        return self

    def __exit__(self, *_: object) -> None:
        with self._turn:  # no batch is put in place any more: its place is removed next
            self._failure = self._failure or ImageError("the channels were closed")
            self._closed = True
            self._turn.notify_all()
        self._listener.close()
        for plug in self._plugs:
            plug.close()

    def check(self) -> int:
        """Return how many batches are in place. Raises the first failure of a channel or batch."""
        with self._turn:
            if self._failure is not None:
                raise self._failure
            return self._next

    def renew(self) -> tuple[int, tuple[int, ...]]:
        """Let go of all channels; as many others come in their place.

        Returns how many batches are in place, and the numbers of those that wait for others. What
        the old channels bring from now on is dropped. Raises the first failure of a batch.
        """
        with self._turn:
            if self._failure is not None:
                raise self._failure
            self._renewed += 1
            self._ended, self._broke = 0, False
            for plug in self._plugs:
                plug.close()
            self._plugs.clear()
            return self._next, tuple(sorted(self._waiting))

    def settle(self) -> None:
        """Have a channel that is lost from now on be a failure. Raises an earlier one."""
        with self._turn:
            self._lasting = False
            if self._broke:
                self._failure = self._failure or ImageError("a page channel was lost")
            self._turn.notify_all()
        self.check()

    def wait(self, batches: int) -> None:
        """Wait until `batches` batches are in place.

        Raises the first failure of a channel or batch, and ImageError if a batch is lost or if
        more of them came.
        """
        with self._turn:
            while self._next < batches and self._failure is None:
                before = self._next
                came = self._turn.wait_for(
                    lambda: self._next > before or self._hopeless(),  # noqa: B023
                    self._patience_s,
                )
                if self._next == before and self._failure is None:
                    why = (
                        "their channels ended"
                        if came
                        else f"nothing came for {self._patience_s:g} s"
                    )
                    raise ImageError(
                        f"batch {self._next} of {batches} with pages never came: {why}"
                    )
            if self._failure is not None:
                raise self._failure
            if self._next > batches:
                raise ImageError(f"{self._next} batches of pages came instead of {batches}")

    def _serve(self, plug: socket.socket) -> None:
        with self._turn:
            if self._closed:  # the channel came while `__exit__` ran
                plug.close()
                return
            self._plugs.append(plug)
            renewed = self._renewed
        fds: list[int] = []
        with contextlib.suppress(OSError):  # closed at once: the source needs no channels any more
            _, fds, _, _ = socket.recv_fds(plug, 16, 2)
        try:
            if len(fds) == 2:
                # The channel may have ended already.
                with (
                    open(fds[1], "wb", buffering=0) as answers,
                    contextlib.suppress(OSError),
                ):
                    answers.write(PLUGGED)
                self._read(fds[0], renewed)
        finally:
            with self._turn:
                self._ended += renewed == self._renewed
                self._turn.notify_all()

    def _hopeless(self) -> bool:
        """Return whether no further batch can take effect: one failed, or all channels ended."""
        return self._failure is not None or self._ended == len(self._plugs) >= self._channels

    def _read(self, fd: int, renewed: int) -> None:
        widen_pipe(fd)
        channel = FrameStream(Descriptors(fd, fd))
        try:
            while (frame := self._frame(channel, renewed)) is not None:
                self._take(protocol.decode(*frame, protocol.Pages), renewed)
        except (StreamError, ProtocolError, ImageError, OSError) as error:
            with self._turn:
                self._failure = self._failure or error
                self._turn.notify_all()
            with contextlib.suppress(OSError):
                while os.read(fd, DRAIN_BYTES):  # short result: it is thrown away
                    pass
        finally:
            channel.close()

    def _frame(self, channel: FrameStream, renewed: int) -> tuple[bytearray, bytearray] | None:
        """Return the next frame of a channel; None if that has ended, or was given up.

        Raises StreamError or OSError if the channel is lost, and that is a failure.
        """
        try:
            frame = channel.receive()
        except EndOfStream:
            return None
        except (IncompleteFrame, OSError):
            with self._turn:
                if renewed != self._renewed:
                    return None
                self._broke = True
                if self._lasting:
                    return None
            raise
        return frame if renewed == self._renewed else None

    def _take(self, message: protocol.Pages, renewed: int) -> None:
        extents = batches.unpack(message.extents, message.payload, message.encoding, message.digest)
        with self._turn:
            if renewed != self._renewed:
                return  # it came by a channel that was given up
            self._wait_turn(message.number)
            if self._failure is not None:
                raise ImageError("a batch of pages came after one that failed")
            if message.number != self._next:
                raise ImageError(f"batch {message.number} with pages came twice")
            self._put(message, extents)
            self._next += 1
            self._turn.notify_all()

    def _has_changed(self, before: int, lasting: bool) -> bool:
        moved = self._next > before or self._lasting is not lasting
        return moved or self._failure is not None

    def _wait_turn(self, number: int) -> None:
        """Wait until batch `number` is the next one, or a batch has failed.

        Each channel brings its batches in rising order. If every channel holds a batch above
        `_next`, batch `_next` was lost: ImageError is raised at once. ImageError is also raised if
        no batch takes effect for `_patience_s`.
        """
        if number in self._waiting:
            raise ImageError(f"batch {number} with pages came twice")
        self._waiting[number] = self._renewed
        try:
            held = sum(renewed == self._renewed for renewed in self._waiting.values())
            lost = held == self._channels and self._next not in self._waiting
            if number > self._next and lost:
                raise ImageError(f"batch {self._next} with pages never came")
            while self._next < number and self._failure is None:
                before, lasting = self._next, self._lasting
                if not self._turn.wait_for(
                    partial(self._has_changed, before, lasting),
                    None if lasting else self._patience_s,
                ):
                    raise ImageError(
                        f"batch {self._next} with pages never came in {self._patience_s:g} s"
                    )
        finally:
            del self._waiting[number]
