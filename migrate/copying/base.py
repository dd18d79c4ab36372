"""The ways a container's memory gets to the target: what they have in common."""

from __future__ import annotations

import enum
from typing import Protocol

from checkpoint.criu import log as criu_log
from checkpoint.criu.session import DumpRole
from checkpoint.errors import ConversationLost, CriuFailed, ImageError
from checkpoint.memory import ranges
from checkpoint.memory.process_memory import read_pages
from checkpoint.memory.ranges import Range
from migrate.context import Context
from migrate.page_batches import PageBatches
from migrate.state import State


class Reach(enum.Enum):
    """Whose memory can go ahead of the container."""

    ALL = "all processes'"
    SOME = "some processes'"
    NONE = "no process's"


class Copying(Protocol):
    """One way: all memory goes with `dump` and `send_last`, but for what went ahead."""

    #: What was sent so far.
    batches: PageBatches
    #: Whether processes' memory is as CRIU read it, which has them go on for a moment after that.
    by_criu: bool

    def dump(self, dump: DumpRole) -> None:
        """Have CRIU freeze the container and write its images (run_dump). Raises CheckpointError or AgentGone."""

    def send_last(self, pids: list[int]) -> None:
        """With the container's processes frozen and dumped: send what the target has not, or old."""

    def images(self) -> dict[int, list[Range]]:
        """After `dump`: by image (a dst_id of page_wire.py) all pages that CRIU found, in rising order."""


class Ahead(Copying, Protocol):
    """One that can send rounds before `dump`."""

    def attach(self) -> Reach:
        """Begin to see what is written."""

    def send_round(self) -> int:
        """Send what was written since the last round, at first everything; how many bytes that was."""

    def close(self) -> None:
        """Leave every process as it was."""


def run_dump(dump: DumpRole, move: Context) -> None:
    """Until everything is dumped and the container is frozen. Raises CriuFailed or ConversationLost."""
    dump.request_gate.open()
    try:
        dump.done_gate.wait_reached(move.options.limits.dump_s)
    except ConversationLost as error:
        log = criu_log.errors(move.images / "dump.log") or criu_log.last_words(
            move.images / "engine.log"
        )
        raise (CriuFailed("dump", log) if log else error) from error


def send_pages(batches: PageBatches, pid: int, image: int, wanted: list[Range]) -> list[Range]:
    """Read a process's pages, running or frozen, as those of an image. Returns what could not be read."""
    read: list[Range] = []
    for vaddr, data in read_pages(pid, wanted):
        batches.add(image, vaddr, data)
        read.append((vaddr, vaddr + len(data)))
    return (
        ranges.difference(wanted, ranges.union(read, []))
        if ranges.size(read) < ranges.size(wanted)
        else []
    )


def send_all_pages(batches: PageBatches, pid: int, image: int, wanted: list[Range]) -> None:
    """The same of a frozen process, where all must be there. Raises ImageError."""
    if unread := send_pages(batches, pid, image, wanted):
        raise ImageError(f"process {pid}: its page at {unread[0][0]:#x} cannot be read")


def progress_of(move: Context) -> PageBatches:
    """Batches whose way is shown while the container runs; inside the freeze nobody is told anything."""

    def show(sent_bytes: int) -> None:
        if move.state is State.ARMED:
            move.observer.sent(sent_bytes, move.report.memory_bytes)

    assert move.pages is not None
    return PageBatches(move.pages, progress=show)
