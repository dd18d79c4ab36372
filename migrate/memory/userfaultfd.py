"""Pre-copy by userfaultfd write tracking (checkpoint/memory/tracking/tracker.py).

Memory that cannot be tracked is sent in the freeze.
"""

from __future__ import annotations

from checkpoint.criu.page_server import PAGE_SIZE, PS_TYPE_PID, dst_id_of_process
from checkpoint.criu.parent import forget_writes, kerndat_with_tracking, make_parent
from checkpoint.errors import CheckpointError
from checkpoint.host import processes
from checkpoint.memory import ranges
from checkpoint.memory.ranges import Range
from checkpoint.memory.tracking import tracker
from checkpoint.memory.tracking.tracker import Tracker
from migrate.memory.batches import PageBatches
from migrate.memory.copying import Ends, MayBeLazy, Reach, run_dump
from migrate.memory.page_map import Dumped, send_page_maps
from migrate.memory.page_relay import relayed


class UserfaultfdCopy:
    """The way to send one container's memory by a tracker for each of its processes.

    `known` lists by pid the pages that the target has, as they were at the last round.
    """

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        #: True if the kernel tracks soft-dirty pages. CRIU then sends by itself the pages that were
        #: written between `forget_writes`, shortly before the freeze, and the freeze.
        self.by_criu = kerndat_with_tracking() == b""
        self._trackers: dict[int, Tracker] = {}
        self._refused: set[int] = set()
        self.known: dict[int, list[Range]] = {}
        self._last: Dumped | None = None
        self.batches = PageBatches(
            ends.pages, progress=ends.progress.sent, processes=ends.processes
        )

    @property
    def untracked(self) -> list[int]:
        return list(self._refused)

    def attach(self) -> Reach:
        """Track every process that can be tracked, and return whose memory that reaches."""
        pids = processes.tree_of(self._ends.pid)
        self._refused &= set(pids)
        for pid in pids:
            if pid not in self._trackers and pid not in self._refused:
                try:
                    self._trackers[pid] = Tracker(pid)
                except (CheckpointError, OSError) as error:
                    if processes.has_ended(pid):
                        continue
                    self._refused.add(pid)
                    self._ends.progress.note(f"not tracked, copied while frozen: {error}")
        if not self._trackers:
            return Reach.NONE
        return Reach.SOME if self._refused else Reach.ALL

    def send_round(self) -> int:
        """Send the pages written since the last round, at first all; return their size in bytes."""
        sent = 0
        self._forget_ended()
        self.attach()
        for pid, watched in list(self._trackers.items()):
            try:
                written = watched.written()
                unread = self.batches.add_memory(pid, watched.virtual_pid, written)
                known = ranges.union(self.known.get(pid, []), written)
                self.known[pid] = ranges.difference(known, unread) if unread else known
                sent += ranges.size(written)
            except (CheckpointError, OSError):
                # Most likely the process is ending. If not: the pages that were not sent count as
                # unwritten from now on, so all that the target has of the process is taken for old.
                self.known.pop(pid, None)
        self.batches.flush()
        return sent

    def _forget_ended(self) -> None:
        """Close the trackers of processes that ended, or that may have a file open with O_DIRECT.

        The target forgets the pages of ended processes. This comes before new processes are
        attached, which may have the pids of ended ones. All memory of a process with such a file
        is sent in the freeze.
        """
        for pid, watched in list(self._trackers.items()):
            ended = watched.ended()
            if ended or self._reads_directly(watched):
                self.known.pop(pid, None)
                self._trackers.pop(pid).close()
                if ended:
                    self.batches.forget(dst_id_of_process(watched.virtual_pid))
                else:
                    self._refused.add(pid)
                    self._ends.progress.note(
                        f"process {pid} may have a file open for direct I/O:"
                        " its memory is copied while frozen"
                    )

    def _reads_directly(self, watched: Tracker) -> bool:
        try:
            return tracker.reads_directly(watched.pid)
        except (CheckpointError, OSError):  # most likely the process is ending
            return not processes.has_ended(watched.pid)

    def dump(self) -> None:
        """Have CRIU dump with a parent that is said to have all memory (checkpoint/criu/parent.py).

        CRIU then lists the pages, and sends none that it takes for unchanged.
        """
        ends = self._ends
        ends.dump.parent = make_parent(ends.directory)
        if self.by_criu:
            forget_writes(list(self._trackers))
        last = self._last = Dumped(self.batches, _of_a_process, last=True)
        with relayed(ends.dump.pages, ends.criu_version, last):
            run_dump(ends)

    def send_last(self, pids: list[int], may_be_lazy: MayBeLazy) -> None:
        """Send the page maps, then the pages that were written since the last round or never sent.

        Raises ImageError if a page that CRIU found cannot be read.
        """
        assert self._last is not None
        send_page_maps(self._ends.agent, self.found_pages(), may_be_lazy)
        pages = self._last.sent_pages
        self._forget_ended()
        for pid in pids:
            inner = tracker.virtual_pid(pid)
            wanted = self._last.holes(dst_id_of_process(inner))
            if not wanted:
                continue  # a zombie has no memory
            stale = ranges.intersection(tracker.written_at_last(pid), wanted)
            unknown = ranges.difference(wanted, self.known.get(pid, []))
            last = ranges.union(stale, unknown)
            pages += ranges.size(last) // PAGE_SIZE
            self.batches.add_all_memory(pid, inner, last)
        self.batches.pass_on()
        report = self._ends.progress.report
        report.sent.pages_skipped_parent = self._last.hole_pages()
        report.notes.append(f"{pages} pages were left for the freeze")

    def found_pages(self) -> dict[int, list[Range]]:
        assert self._last is not None
        return self._last.found_pages()

    def close(self) -> None:
        """Close all trackers, which leaves every process as it was before."""
        while self._trackers:
            self._trackers.popitem()[1].close()


def _of_a_process(dst_id: int) -> bool:
    """Return whether a dst_id is that of a process's memory: CRIU need not send such pages."""
    return dst_id & 0xFF == PS_TYPE_PID
