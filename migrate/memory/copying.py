"""The common interface of the ways in which memory gets to the target, and their helpers."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from checkpoint.criu import log as criu_log
from checkpoint.criu.page_server import dst_id_of_process
from checkpoint.criu.roles import DumpRole
from checkpoint.errors import CheckpointError, ConversationLost, CriuFailed
from checkpoint.host import processes
from checkpoint.memory.ranges import Range
from checkpoint.memory.tracking.tracker import virtual_pid
from migrate.agent.client import AgentClient
from migrate.memory.batches import PageBatches
from migrate.memory.channels import PageChannels
from migrate.progress import Progress

#: A function that returns the ranges of a process that CRIU can restore lazily, by the process's
#: pid in its own pid namespace.
MayBeLazy = Callable[[int], list[Range]]


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Both ends of a way to send memory: a container on the source, and the target's agent.

    `pid` is the container's init. `dump` is the source's role in CRIU's dump, `criu_version` the
    version of CRIU there, and `dump_s` the longest that a dump may take, in seconds. CRIU writes
    its image files into `images`; `directory`, above it, is this migration's own, in RAM.
    """

    pid: int
    dump: DumpRole
    criu_version: int
    dump_s: float
    directory: Path
    images: Path
    agent: AgentClient
    pages: PageChannels
    progress: Progress

    def processes(self) -> dict[int, tuple[int, int]]:
        """Return the container's processes by the dst_id of their memory (batches.Processes)."""
        found = {}
        for pid in processes.tree_of(self.pid):
            with contextlib.suppress(CheckpointError, OSError):  # it has just ended
                inner = virtual_pid(pid)
                found[dst_id_of_process(inner)] = (pid, inner)
        return found


class Reach(enum.Enum):
    """The processes whose memory can be sent while the container runs."""

    ALL = "all processes'"
    SOME = "some processes'"
    NONE = "no process's"


class Copying(Protocol):
    """One way to send memory: after `dump` and `send_last` the target has all of it."""

    #: The batches of all pages, with counts of what was sent so far.
    batches: PageBatches
    #: Whether the target gets memory as CRIU read it. CRIU lets the processes run for a moment
    #: after it has read, so that the frozen memory may differ (checkpoint/criu/images/rseq.py).
    by_criu: bool

    @property
    def untracked(self) -> Sequence[int] | None:
        """The processes whose memory no round sends; None if no process's memory is sent ahead."""

    def dump(self) -> None:
        """Have CRIU freeze the container and write its image files (run_dump).

        Raises CheckpointError or AgentGone.
        """

    def send_last(self, pids: list[int], may_be_lazy: MayBeLazy) -> None:
        """Send the pages that the target lacks, and those it has in an old version.

        `pids` are the container's processes, which `dump` has frozen and dumped. The last batch of
        pages may still be on its way when this returns (PageBatches.flush).
        """

    def found_pages(self) -> dict[int, list[Range]]:
        """Return all pages that CRIU found in `dump`, in rising order.

        They are listed by address space (a dst_id of page_server.py).
        """


class Ahead(Copying, Protocol):
    """A way to send memory that can send rounds of it before `dump`, while the container runs."""

    def attach(self) -> Reach:
        """Begin to track writes, and return whose memory that reaches."""

    def send_round(self) -> int:
        """Send the pages written since the last round, at first all; return their size in bytes."""

    def close(self) -> None:
        """Stop tracking, and leave every process as it was before."""


def run_dump(ends: Ends) -> None:
    """Release the held dump, and wait until the container is frozen and dumped.

    Raises CriuFailed with what CRIU or the engine has logged, or ConversationLost if that is
    nothing.
    """
    ends.dump.request_gate.open()
    try:
        ends.dump.done_gate.wait_reached(ends.dump_s)
    except ConversationLost as error:
        log = criu_log.errors(ends.images / "dump.log") or criu_log.last_words(
            ends.images / "engine.log"
        )
        raise (CriuFailed("dump", log) if log else error) from error
