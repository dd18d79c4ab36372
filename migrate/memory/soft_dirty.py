"""Pre-copy by CRIU's own pre-dumps, where the kernel tracks soft-dirty pages.

Each round freezes the container for a moment. In return the rounds also send memory that
userfaultfd cannot watch. Memory that processes share is left for the freeze: CRIU cannot tell
which of its pages were written (criu/shmem.c), and sends all of them in each pre-dump.
"""

from __future__ import annotations

import contextlib

from checkpoint.criu.page_server import PAGE_SIZE, dst_id_of_process
from checkpoint.criu.predump import PreDumps
from checkpoint.errors import CheckpointError
from checkpoint.host import processes
from checkpoint.memory import ranges
from checkpoint.memory.process_memory import read_pages
from checkpoint.memory.ranges import Range
from checkpoint.memory.tracking.tracker import reads_directly, virtual_pid
from checkpoint.memory.tracking.write_protection import private_mappings
from migrate.memory.batches import ZERO_PAGE, PageBatches
from migrate.memory.copying import Ends, MayBeLazy, Reach, run_dump
from migrate.memory.page_map import Dumped, send_page_maps
from migrate.memory.page_relay import relayed

HUGE_PAGE = 2 << 20


class SoftDirtyCopy:
    """The way to send one container's memory by a chain of pre-dumps."""

    by_criu = True
    untracked = ()

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self.batches = PageBatches(
            ends.pages, progress=ends.progress.sent, processes=ends.processes
        )
        self._predumps = PreDumps(ends.dump.options, ends.directory)
        self._known: dict[int, list[Range]] = {}
        self._mappings: dict[int, list[Range]] = {}
        self._last: Dumped | None = None

    def attach(self) -> Reach:
        """Return Reach.ALL: CRIU tracks every process by itself, from the first pre-dump on."""
        return Reach.ALL

    def send_round(self) -> int:
        self._forget_ended()
        session = Dumped(self.batches, self._known.__contains__, last=False)
        predump = self._predumps.begin()
        try:
            with relayed(predump.pages, self._ends.criu_version, session):
                predump.ask()
                predump.wait(self._ends.dump_s, session.extents)
        finally:
            predump.close()
        self._predumps.keep()
        # An address space that the target has only in part is sent whole in the next round.
        self._known = {
            dst_id: found
            for dst_id, found in session.found_pages().items()
            if not self._unknown(session, dst_id)
        }
        return session.sent_pages * PAGE_SIZE

    def _unknown(self, session: Dumped, dst_id: int) -> list[Range]:
        """Return the pages that CRIU takes for sent before, but that were not.

        That happens after an exec, for example.
        """
        return ranges.difference(session.holes(dst_id), self._known.get(dst_id, []))

    def _forget_ended(self) -> None:
        """Have the target forget the memory of ended processes: its store needs room for new ones.

        This also notes each process's mappings before the pre-dump, for `_doubtful`.
        """
        self._mappings = {}
        for pid in processes.tree_of(self._ends.pid):
            # Most likely the process is ending. If not, its memory is sent whole.
            with contextlib.suppress(CheckpointError, OSError):
                self._mappings[dst_id_of_process(virtual_pid(pid))] = private_mappings(pid)
        for gone in self._known.keys() - self._mappings.keys():
            self.batches.forget(gone)
            del self._known[gone]

    def dump(self) -> None:
        """Have CRIU dump, and send the pages that were written since the last pre-dump."""
        ends = self._ends
        ends.dump.parent = self._predumps.parent
        last = self._last = Dumped(self.batches, self._known.__contains__, last=True)
        with relayed(ends.dump.pages, ends.criu_version, last):
            run_dump(ends)
        report = self._ends.progress.report
        report.sent.pages_skipped_parent = last.hole_pages()
        report.notes.append(f"{last.sent_pages} pages were left for the freeze")

    def send_last(self, pids: list[int], may_be_lazy: MayBeLazy) -> None:
        """Send the page maps, then the pages that CRIU may have left out wrongly.

        Raises ImageError if a page cannot be read.
        """
        assert self._last is not None
        send_page_maps(self._ends.agent, self.found_pages(), may_be_lazy)
        for pid in pids:
            inner = virtual_pid(pid)
            self.batches.add_all_memory(pid, inner, self._doubtful(pid, dst_id_of_process(inner)))
        self.batches.pass_on()

    def _doubtful(self, pid: int, dst_id: int) -> list[Range]:
        """Return the pages of a frozen process that CRIU took for unchanged, perhaps wrongly.

        Three kinds of change do not show as a soft-dirty page: bytes that a device writes by
        direct I/O; page tables that mremap(2) moved as a whole; and a huge page that was given
        back and reads as zeros since (CRIU knows the small zero page only).
        """
        assert self._last is not None
        holes = self._last.holes(dst_id)
        if not holes or reads_directly(pid):
            return holes
        same = unmoved(self._mappings.get(dst_id, []), private_mappings(pid))
        doubtful = ranges.union(self._unknown(self._last, dst_id), ranges.difference(holes, same))
        return ranges.union(doubtful, zero_blocks(pid, ranges.difference(holes, doubtful)))

    def found_pages(self) -> dict[int, list[Range]]:
        assert self._last is not None
        return self._last.found_pages()

    def close(self) -> None:
        """Do nothing: soft-dirty bits mean nothing to the processes themselves."""


def unmoved(before: list[Range], now: list[Range]) -> list[Range]:
    """Return the addresses that were mapped both times, by mappings that stayed where they were.

    Such a mapping has at least its start or its end where it had it before.
    """
    ends, starts = dict(before), {end: start for start, end in before}
    kept = []
    for start, end in now:
        if start in ends:
            kept.append((start, min(end, ends[start])))
        elif end in starts:
            kept.append((max(start, starts[end]), end))
    return ranges.union(kept, [])


def zero_blocks(pid: int, pieces: list[Range]) -> list[Range]:
    """Return the blocks in `pieces` that could be a huge page and begin with a page of zeros.

    Such a block has the size and the alignment of a huge page.
    """
    blocks = [
        (block, block + HUGE_PAGE)
        for start, end in pieces
        for block in range(-(-start // HUGE_PAGE) * HUGE_PAGE, end - HUGE_PAGE + 1, HUGE_PAGE)
    ]
    first = [(start, start + PAGE_SIZE) for start, _ in blocks]
    zero = {vaddr for vaddr, data in read_pages(pid, first) if data == ZERO_PAGE}
    return [block for block in blocks if block[0] in zero]
