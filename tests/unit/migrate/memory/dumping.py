"""A CRIU that dumps as a test tells it, for the ways in which memory is sent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from checkpoint.criu import page_server
from checkpoint.criu.page_server import ADD_F, CLOSE, OPEN2, PAGE_SIZE, PE_PARENT, PE_PRESENT
from checkpoint.errors import ConversationLost
from migrate.progress import Progress
from migrate.report import Report
from tests.unit.migrate.memory.carrier import Carrier

VERSION = 40201
WIRE = page_server.wire_struct(VERSION)
LIMIT_S = 20.0
#: Extents of an address space: (address, pages, the byte that fills them). The byte is None for
#: pages of the parent.
Found = tuple[int, int, int | None]


class Session:
    """A session of CRIU's, which finds some extents in each address space (dst_id).

    After `play`, `parents` has the answers of the other end: which of them it has already.
    """

    def __init__(self, found: dict[int, Sequence[Found]], *, fails: bool = False) -> None:
        self._found, self._fails = found, fails
        self.pages, self._criu = socket.socketpair()
        self.parents: dict[int, bool] = {}
        self._thread = threading.Thread(target=self._play, daemon=True)

    def play(self) -> None:
        self._thread.start()

    def _play(self) -> None:
        with self._criu as criu:
            for dst_id, extents in self._found.items():
                criu.sendall(WIRE.pack(OPEN2, 0, 0, dst_id))
                self.parents[dst_id] = criu.recv(1) == b"\1"
                for vaddr, pages, content in extents:
                    flags = PE_PARENT if content is None else PE_PRESENT
                    criu.sendall(WIRE.pack(ADD_F | flags << 16, pages, vaddr, dst_id))
                    if content is not None:
                        criu.sendall(bytes([content]) * PAGE_SIZE * pages)
            if not self._fails:
                criu.sendall(WIRE.pack(CLOSE, 0, 0, 0))
                criu.recv(4)

    def join(self) -> None:
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()

    def close(self) -> None:
        """Close both ends of the socket."""
        self.pages.close()
        self._criu.close()


class Dump:
    """The source's role in the dump, whose session is played when the request is released."""

    def __init__(self, session: Session, *, lost: bool = False) -> None:
        self.parent: str | None = None
        self.options = None
        self.pages = session.pages
        self.request_gate = SimpleNamespace(open=session.play)
        self.done_gate = SimpleNamespace(wait_reached=self._wait)
        self._session, self._lost = session, lost

    def _wait(self, timeout_s: float) -> None:
        self._session.join()
        if self._lost:
            raise ConversationLost("CRIU ended")


class Ends:
    """Both ends of a way to send memory, which keep what the target would get."""

    def __init__(self, pid: int, directory: Path, dump: Dump) -> None:
        observer: Any = SimpleNamespace(note=lambda _: None, sent=lambda *_: None)
        self.pid, self.dump, self.directory = pid, dump, directory
        self.processes = dict[int, tuple[int, int]]
        self.criu_version, self.dump_s = VERSION, LIMIT_S
        self.images = directory / "images"
        self.images.mkdir()
        self.pages = Carrier()
        self.streamed: list[Any] = []
        self.agent = SimpleNamespace(stream=self.streamed.append)
        self.progress = Progress(Report.begin("web", "beta"), observer)

    def content(self) -> dict[tuple[int, int], int]:
        """Return the first byte of each page that the target has, by (dst_id, address)."""
        return {(dst_id, vaddr): data[0] for dst_id, vaddr, data in self.pages.pages()}
