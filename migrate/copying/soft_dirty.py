"""Memory ahead of the container by CRIU's own pre-dumps, where the kernel tracks soft-dirty pages.

Each round freezes the container for a moment. In return what userfaultfd cannot watch goes ahead, too. Not so memory
that processes share: CRIU cannot tell which of its pages were written (criu/shmem.c) and brings all of them each time,
so it is left for the freeze.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from checkpoint.criu.page_wire import PAGE_SIZE, PE_PARENT, PE_PRESENT, TYPE_PROCESS, process_id
from checkpoint.criu.predump import PreDumps
from checkpoint.criu.session import DumpRole
from checkpoint.host import processes
from checkpoint.images.batch import ZERO_PAGE
from checkpoint.images.relazy import may_be_lazy
from checkpoint.memory import ranges
from checkpoint.memory.ranges import Range
from checkpoint.memory.tracker import read_pages, reads_directly, virtual_pid
from checkpoint.memory.uffd import private_mappings
from migrate import protocol
from migrate.context import Context
from migrate.copying.base import Reach, progress_of, run_dump, send_all_pages
from migrate.copying.relayed import relayed
from migrate.page_batches import PageBatches

#: Keeps a message's header well under the frame's bound.
MAX_EXTENTS = 1024
HUGE_PAGE = 2 << 20


class _Session:
    """What one pre-dump, or the dump at the end, says is in memory. Bytes go to the target's store."""

    def __init__(self, batches: PageBatches, before: Mapping[int, list[Range]], *, last: bool = False) -> None:
        self._batches, self._before, self._last = batches, before, last
        self.images: dict[int, list[Range]] = {}
        self.holes: dict[int, list[Range]] = {}
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
            self.holes.setdefault(dst_id, []).append((vaddr, vaddr + pages * PAGE_SIZE))
            self.unchanged_pages += pages

    def unknown(self, dst_id: int) -> list[Range]:
        """Pages that CRIU takes for sent before, and that were not: after an exec, for one."""
        holes, before = (ranges.union(found.get(dst_id, []), []) for found in (self.holes, self._before))
        return ranges.difference(holes, before)

    def _wanted(self, dst_id: int) -> bool:
        return self._last or dst_id & 0xFF == TYPE_PROCESS


class SoftDirtyCopy:
    """The chain of pre-dumps of one container."""

    def __init__(self, move: Context) -> None:
        assert move.dump is not None
        self._move = move
        self.batches = progress_of(move)
        self._predumps = PreDumps(move.dump.options, move.directory)
        self._images: dict[int, list[Range]] = {}
        self._mappings: dict[int, list[Range]] = {}
        self._last: _Session | None = None

    def attach(self) -> Reach:
        """CRIU sees to every process by itself, in each pre-dump."""
        return Reach.ALL

    def send_round(self) -> int:
        self._let_go()
        session = _Session(self.batches, self._images)
        predump = self._predumps.begin()
        try:
            with relayed(predump.pages, self._move, session, self.batches.flush, session.has_parent):
                predump.ask()
                predump.wait()
        finally:
            predump.close()
        self._predumps.keep()
        # What is not all there is sent whole the next time.
        self._images = {image: found for image, found in session.images.items() if not session.unknown(image)}
        return session.sent_pages * PAGE_SIZE

    def _let_go(self) -> None:
        """Of processes that ended: the store is to have room for new ones."""
        self._mappings = {}
        for pid in processes.in_pid_namespace_of(self._move.container.pid):
            with contextlib.suppress(OSError):  # it is ending
                self._mappings[process_id(virtual_pid(pid))] = private_mappings(pid)
        for gone in self._images.keys() - self._mappings.keys():
            self.batches.forget(gone)
            del self._images[gone]

    def dump(self, dump: DumpRole) -> None:
        """CRIU sends what was written since the last pre-dump."""
        dump.parent = self._predumps.parent
        session = _Session(self.batches, self._images, last=True)
        with relayed(dump.pages, self._move, session, self.batches.flush, session.has_parent):
            run_dump(dump, self._move.images)
        self._images, self._last = session.images, session
        report = self._move.report
        report.pages_skipped_parent = session.unchanged_pages
        report.notes.append(f"{session.sent_pages} pages were left for the freeze")

    def send_last(self, pids: list[int]) -> None:
        """What CRIU left out wrongly; then, of which of the pages in the target's store each image is made up.

        Raises ImageError when a page cannot be read.
        """
        for pid in pids:
            image = virtual_pid(pid)
            send_all_pages(self.batches, pid, image, self._doubtful(pid, process_id(image)))
        self.batches.flush()
        for dst_id, pieces in self._images.items():
            present = ranges.union(pieces, [])
            lazy = ranges.intersection(present, self._may_be_lazy(dst_id))
            extents = [[start, (end - start) // PAGE_SIZE, True] for start, end in lazy]
            extents += [[start, (end - start) // PAGE_SIZE, False] for start, end in ranges.difference(present, lazy)]
            extents.sort()
            for first in range(0, len(extents), MAX_EXTENTS):
                self._move.agent.stream(protocol.PageMap(dst_id=dst_id, extents=extents[first : first + MAX_EXTENTS]))

    def _doubtful(self, pid: int, dst_id: int) -> list[Range]:
        """Of a frozen process, the pages that CRIU took for unchanged and that may not be.

        Not seen as written are: what a device writes by direct I/O; page tables that mremap(2) moved as a whole; and
        a huge page that was given back and reads as zeros since (CRIU knows the small zero page only).
        """
        assert self._last is not None
        holes = ranges.union(self._last.holes.get(dst_id, []), [])
        if not holes or reads_directly(pid):
            return holes
        same = _unmoved(self._mappings.get(dst_id, []), private_mappings(pid))
        doubtful = ranges.union(self._last.unknown(dst_id), ranges.difference(holes, same))
        return ranges.union(doubtful, _zero_blocks(pid, ranges.difference(holes, doubtful)))

    def close(self) -> None:
        """Soft-dirty bits mean nothing to the processes themselves."""

    def _may_be_lazy(self, dst_id: int) -> list[Range]:
        if dst_id & 0xFF != TYPE_PROCESS or not self._move.target.lazy_pages:
            return []
        return may_be_lazy(self._move.images / f"mm-{dst_id >> 8}.img")


def _unmoved(before: list[Range], now: list[Range]) -> list[Range]:
    """What was mapped before and is now, of mappings that at most grew or shrank at one end."""
    ends, starts = dict(before), {end: start for start, end in before}
    kept = []
    for start, end in now:
        if start in ends:
            kept.append((start, min(end, ends[start])))
        elif end in starts:
            kept.append((max(start, starts[end]), end))
    return ranges.union(kept, [])


def _zero_blocks(pid: int, pieces: list[Range]) -> list[Range]:
    """Of these, the blocks as large and aligned as a huge page that begin with a page of zeros."""
    blocks = [
        (block, block + HUGE_PAGE)
        for start, end in pieces
        for block in range(-(-start // HUGE_PAGE) * HUGE_PAGE, end - HUGE_PAGE + 1, HUGE_PAGE)
    ]
    first = [(start, start + PAGE_SIZE) for start, _ in blocks]
    zero = {vaddr for chunks in read_pages(pid, first) for vaddr, data in chunks if data == ZERO_PAGE}
    return [block for block in blocks if block[0] in zero]
