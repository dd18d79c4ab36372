"""Memory goes ahead of the container: rounds of what was written since the last, while it runs."""

from __future__ import annotations

import time
from pathlib import Path

from checkpoint.criu.page_wire import PAGE_SIZE
from checkpoint.errors import CgroupUnavailable, CheckpointError, ImageError
from checkpoint.host import processes
from checkpoint.host.cpu_limit import CpuLimit
from checkpoint.images.pagemap import Pagemap
from checkpoint.images.relazy import relazy
from checkpoint.memory import ranges, tracker
from checkpoint.memory.ranges import Range
from checkpoint.memory.tracker import Tracker
from migrate import protocol
from migrate.context import Context
from migrate.convergence import History, Round, Verdict, decide
from migrate.errors import CannotTrack, NotConverging
from migrate.page_batches import PageBatches
from migrate.state import State
from migrate.tracking import Mode, Tracking


class PreCopy:
    """The trackers of a container's processes, and what each page's newest copy on the target covers."""

    def __init__(self, move: Context) -> None:
        self._move = move
        self._trackers: dict[int, Tracker] = {}
        self._refused: set[int] = set()
        self._known: dict[int, list[Range]] = {}
        assert move.pages is not None
        self._channels = move.pages.channels
        self.batches = PageBatches(move.pages, progress=self._show)

    def attach(self) -> bool:
        """Track every process that can be. Whether any is tracked."""
        pids = processes.in_pid_namespace_of(self._move.container.pid)
        self._refused &= set(pids)
        for pid in pids:
            if pid not in self._trackers and pid not in self._refused:
                try:
                    self._trackers[pid] = Tracker(pid)
                except (CheckpointError, OSError) as error:
                    self._refused.add(pid)
                    self._move.note(f"not tracked, copied while frozen: {error}")
        return bool(self._trackers)

    def send_round(self) -> Round:
        """Send what was written since the last round."""
        started, held_us = time.monotonic_ns(), self._move.limit.held_us
        sent = 0
        self._let_go()
        self.attach()
        for pid, watched in list(self._trackers.items()):
            try:
                written = watched.written()
                unread = self._send(pid, watched.virtual_pid, written)
                known = ranges.union(self._known.get(pid, []), written)
                self._known[pid] = ranges.difference(known, unread) if unread else known
                sent += ranges.size(written)
            except OSError:
                # Most likely it is ending. If not: what was not sent counts as unwritten from now on, so all
                # that the target has of it is taken for old.
                self._known.pop(pid, None)
        self.batches.flush()
        return Round(
            bytes=sent,
            length_us=(time.monotonic_ns() - started) // 1000,
            held_us=(self._move.limit.held_us - held_us) // self._channels,
        )

    def _let_go(self) -> None:
        """Of processes that ended, before new ones are attached, which may have their numbers; and of those that
        can no longer be tracked: all their memory is taken for unknown."""
        for pid, watched in list(self._trackers.items()):
            ended = watched.ended()
            if ended or self._reads_directly(watched):
                self._known.pop(pid, None)
                self._trackers.pop(pid).close()
                if ended:
                    self.batches.forget(watched.virtual_pid)
                else:
                    self._refused.add(pid)
                    self._move.note(f"process {pid} opened a file for direct I/O: its memory is copied while frozen")

    def _reads_directly(self, watched: Tracker) -> bool:
        try:
            return watched.reads_directly()
        except OSError:  # it is ending
            return False

    def send_last(self, images: Path, pids: list[int]) -> int:
        """With the container's processes frozen and dumped: send what the images want and the target has not, or old.

        Returns the number of pages. The pagemaps are the authority on which pages exist. Raises ImageError
        when one of them cannot be read.
        """
        pages = 0
        self._let_go()
        for pid in pids:
            image = tracker.virtual_pid(pid)
            path = images / f"pagemap-{image}.img"
            if not path.exists():
                continue  # a zombie has no memory
            if written_out := relazy(images, image):
                self._move.report.notes.append(f"CRIU wrote {written_out >> 20} MiB of process {pid} out while frozen")
            wanted = Pagemap.load(path).lazy_ranges()
            stale = ranges.intersection(tracker.written_at_last(pid), wanted)
            unknown = ranges.difference(wanted, self._known.get(pid, []))
            last = ranges.union(stale, unknown)
            pages += ranges.size(last) // PAGE_SIZE
            if unread := self._send(pid, image, last):
                raise ImageError(f"process {pid}: its page at {unread[0][0]:#x} cannot be read")
        self.batches.flush()
        return pages

    def _show(self, sent_bytes: int) -> None:
        # Inside the freeze nobody is told anything.
        if self._move.state is State.ARMED:
            self._move.observer.sent(sent_bytes, self._move.report.memory_bytes)

    def close(self) -> None:
        """Leave every process as it was."""
        while self._trackers:
            self._trackers.popitem()[1].close()

    def _send(self, pid: int, image: int, written: list[Range]) -> list[Range]:
        """Returns what could not be read: mostly pages that went away since they were found."""
        read: list[Range] = []
        for chunks in tracker.read_pages(pid, written):
            for vaddr, data in chunks:
                self.batches.add(image, vaddr, data)
                read.append((vaddr, vaddr + len(data)))
        return ranges.difference(written, ranges.union(read, [])) if ranges.size(read) < ranges.size(written) else []


def pre_copy(move: Context) -> PreCopy | None:
    """Send memory ahead until the decision is to freeze. None: nothing is tracked, stop and copy.

    Raises NotConverging when the policy is to leave such a container alone, CannotTrack when it must be tracked.
    """
    move.report.mode = Mode.STOP_COPY.value
    if move.tracking is Tracking.NONE:
        return None
    with move.phase("pre-copy"):
        copying = PreCopy(move)
        move.tidy.callback(copying.close)
        if not copying.attach():
            if move.options.mode is Mode.PRE_COPY:
                raise CannotTrack
            move.note("stop-copy: no process's writes can be tracked")
            return None
        move.report.mode = Mode.PRE_COPY.value
        _converge(move, copying)
    return copying


def _converge(move: Context, copying: PreCopy) -> None:
    """Round after round, until it is time to freeze."""
    rounds: list[Round] = []
    slowed_to, started_ns = 1.0, time.monotonic_ns()
    while True:
        rounds.append(copying.send_round())
        move.account_pages(copying.batches)
        move.agent.request(protocol.Ping(), protocol.Clock)  # a failure is better told before the freeze
        elapsed_us = (time.monotonic_ns() - started_ns) // 1000
        history = History(
            rounds=rounds, memory_bytes=move.report.memory_bytes, elapsed_us=elapsed_us, slowed_to=slowed_to
        )
        decision = decide(history, move.options.policy)
        move.note(decision.reason)
        move.report.rounds, move.report.round_bytes = len(rounds), [done.bytes for done in rounds]
        move.report.predicted_downtime_us = decision.predicted_us
        if decision.verdict is Verdict.FREEZE:
            return
        if decision.verdict is Verdict.GIVE_UP:
            raise NotConverging(decision.reason)
        if decision.verdict is Verdict.SLOW_DOWN:
            slowed_to = _slow_down(move, slowed_to / 2)


def _slow_down(move: Context, share: float) -> float:
    """Leave the container that share of its speed. Returns the share it has: 0 when there is no more to take."""
    try:
        if move.cpu_limit is None:
            move.cpu_limit = CpuLimit(move.container.pid)
            move.tidy.callback(move.cpu_limit.restore)
        move.cpu_limit.to(share)
    except (CgroupUnavailable, OSError) as error:
        move.note(f"cannot be slowed down: {error}")
        return 0.0
    move.note(f"slowed down to {share:.0%} of its speed until the freeze")
    return share
