"""Memory ahead of the container by CRIU's own pre-dumps, where the kernel tracks soft-dirty pages.

Each round freezes the container for a moment. In return what userfaultfd cannot watch goes ahead, too. Not so memory
that processes share: CRIU cannot tell which of its pages were written (criu/shmem.c) and brings all of them each time,
so it is left for the freeze.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

from checkpoint.criu.page_wire import PAGE_SIZE, PE_PARENT, PE_PRESENT, TYPE_PROCESS, process_id
from checkpoint.criu.predump import PreDumps
from checkpoint.criu.session import DumpRole
from checkpoint.host import processes
from checkpoint.images.relazy import may_be_lazy
from checkpoint.memory import ranges
from checkpoint.memory.ranges import Range
from checkpoint.memory.tracker import virtual_pid
from migrate import protocol
from migrate.context import Context
from migrate.convergence import Round
from migrate.copying.base import Reach, progress_of, run_dump
from migrate.copying.relayed import relayed
from migrate.page_batches import PageBatches

#: Keeps a message's header well under the frame's bound.
MAX_EXTENTS = 1024


class _Session:
    """What one pre-dump, or the dump at the end, says is in memory. Bytes go to the target's store."""

    def __init__(self, batches: PageBatches, before: Mapping[int, list[Range]], *, last: bool = False) -> None:
        self._batches, self._before, self._last = batches, before, last
        self.images: dict[int, list[Range]] = {}
        self.sent_pages = 0
        self.unchanged_pages = 0

    def has_parent(self, dst_id: int) -> bool:
        """CRIU begins an image."""
        if self._wanted(dst_id):
            self.images.setdefault(dst_id, [])
        return dst_id in self._before

    def extent(self, dst_id: int, vaddr: int, pages: int, flags: int, data: memoryview) -> None:
        if not self._wanted(dst_id):
            return
        self.images.setdefault(dst_id, []).append((vaddr, vaddr + pages * PAGE_SIZE))
        if data:
            self._batches.extent(dst_id, vaddr, pages, PE_PRESENT, data)
            self.sent_pages += pages
        elif flags & PE_PARENT:
            self.unchanged_pages += pages

    def _wanted(self, dst_id: int) -> bool:
        return self._last or dst_id & 0xFF == TYPE_PROCESS


class SoftDirtyCopy:
    """The chain of pre-dumps of one container."""

    def __init__(self, move: Context) -> None:
        assert move.dump is not None
        assert move.pages is not None
        self._move = move
        self._channels = move.pages.channels
        self.batches = progress_of(move)
        self._predumps = PreDumps(move.dump.options, move.directory)
        self._images: dict[int, list[Range]] = {}

    def attach(self) -> Reach:
        """CRIU sees to every process by itself, in each pre-dump."""
        return Reach.ALL

    def send_round(self) -> Round:
        started, held_us = time.monotonic_ns(), self._move.limit.held_us
        self._let_go()
        session = _Session(self.batches, self._images)
        predump = self._predumps.begin()
        try:
            with relayed(predump.pages, self._move, session, self.batches.flush, session.has_parent):
                predump.wait()
        finally:
            predump.close()
        self._predumps.keep()
        self._images = session.images
        return Round(
            bytes=session.sent_pages * PAGE_SIZE,
            length_us=(time.monotonic_ns() - started) // 1000,
            held_us=(self._move.limit.held_us - held_us) // self._channels,
        )

    def _let_go(self) -> None:
        """Of processes that ended: the store is to have room for new ones."""
        alive = set()
        for pid in processes.in_pid_namespace_of(self._move.container.pid):
            with contextlib.suppress(OSError):  # it is ending
                alive.add(process_id(virtual_pid(pid)))
        for gone in self._images.keys() - alive:
            self.batches.forget(gone)
            del self._images[gone]

    def dump(self, dump: DumpRole) -> None:
        """CRIU sends what was written since the last pre-dump."""
        dump.parent = self._predumps.parent
        session = _Session(self.batches, self._images, last=True)
        with relayed(dump.pages, self._move, session, self.batches.flush, session.has_parent):
            run_dump(dump, self._move.images)
        self._images = session.images
        report = self._move.report
        report.pages_skipped_parent = session.unchanged_pages
        report.notes.append(f"{session.sent_pages} pages were left for the freeze")

    def send_last(self, images: Path, pids: list[int]) -> None:
        """Of which of the pages in the target's store each image is made up."""
        for dst_id, pieces in self._images.items():
            present = ranges.union(pieces, [])
            lazy = ranges.intersection(present, self._may_be_lazy(images, dst_id))
            extents = [[start, (end - start) // PAGE_SIZE, True] for start, end in lazy]
            extents += [[start, (end - start) // PAGE_SIZE, False] for start, end in ranges.difference(present, lazy)]
            extents.sort()
            for first in range(0, len(extents), MAX_EXTENTS):
                self._move.agent.stream(protocol.PageMap(dst_id=dst_id, extents=extents[first : first + MAX_EXTENTS]))

    def close(self) -> None:
        """Soft-dirty bits mean nothing to the processes themselves."""

    def _may_be_lazy(self, images: Path, dst_id: int) -> list[Range]:
        if dst_id & 0xFF != TYPE_PROCESS or not self._move.target.lazy_pages:
            return []
        return may_be_lazy(images / f"mm-{dst_id >> 8}.img")
