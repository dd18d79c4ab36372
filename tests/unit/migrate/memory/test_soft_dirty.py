"""Tests of migrate/memory/soft_dirty.py: not all that CRIU calls unchanged is taken for it."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.criu.page_server import (
    PAGE_SIZE,
    PE_PARENT,
    PE_PRESENT,
    PS_TYPE_SHMEM,
    dst_id_of_process,
)
from checkpoint.errors import ConversationLost
from checkpoint.host import processes
from migrate.memory import soft_dirty
from migrate.memory.copying import Reach
from migrate.memory.page_map import Dumped
from migrate.memory.soft_dirty import HUGE_PAGE, SoftDirtyCopy
from tests.unit.helpers.obedient import PAGES, Child
from tests.unit.migrate.memory.carrier import Carrier
from tests.unit.migrate.memory.dumping import Dump, Ends, Found, Session
from tests.unit.migrate.memory.ends import ERRORS, ends, failing

Ranges = list[tuple[int, int]]


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [
        ([(10, 20)], [(10, 20)], [(10, 20)]),
        ([(10, 20)], [(10, 30)], [(10, 20)]),
        ([(10, 20)], [(10, 15)], [(10, 15)]),
        ([(10, 20)], [(5, 20)], [(10, 20)]),
        ([(10, 20)], [(12, 22)], []),
        ([(10, 20), (30, 40)], [(30, 40), (50, 60)], [(30, 40)]),
        ([], [(10, 20)], []),
    ],
)
def test_mappings_that_changed_at_one_end_at_most_did_not_move(
    before: Ranges, now: Ranges, kept: Ranges
) -> None:
    assert soft_dirty.unmoved(before, now) == kept


def test_blocks_of_a_huge_pages_size_that_begin_with_zeros_are_found() -> None:
    memory = mmap.mmap(-1, 4 * HUGE_PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    first = -(-start // HUGE_PAGE) * HUGE_PAGE
    # The second whole block begins with a byte that is not zero.
    memory[first - start + HUGE_PAGE] = 1
    found = soft_dirty.zero_blocks(os.getpid(), [(start, start + 4 * HUGE_PAGE)])
    assert (first, first + HUGE_PAGE) in found
    assert (first + HUGE_PAGE, first + 2 * HUGE_PAGE) not in found
    assert soft_dirty.zero_blocks(os.getpid(), [(first, first + HUGE_PAGE - PAGE_SIZE)]) == []


class PreDumps:
    """Pre-dumps without CRIU, in place of checkpoint/criu/predump.py."""

    def __init__(self, *_: object) -> None: ...

    def begin(self) -> SimpleNamespace:
        return SimpleNamespace(
            pages=None, ask=lambda: None, wait=lambda *_: None, close=lambda: None
        )

    def keep(self) -> None: ...


@pytest.mark.parametrize("error", ERRORS)
def test_a_process_that_cannot_be_looked_at_is_sent_whole(
    child: Child, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    image, carrier = dst_id_of_process(child.pid), Carrier()

    @contextlib.contextmanager
    def relayed(_: object, __: object, session: Dumped) -> Iterator[None]:
        """Have CRIU send the only page in the first round, and then find it unchanged."""
        yield
        flags = PE_PARENT if session.has_parent(image) else PE_PRESENT
        page = b"x" * PAGE_SIZE if flags == PE_PRESENT else b""
        session.extent(image, 0, 1, flags, memoryview(page))

    def send_round() -> None:
        copying.send_round()
        copying.batches.flush()

    monkeypatch.setattr(soft_dirty, "PreDumps", PreDumps)
    monkeypatch.setattr(soft_dirty, "relayed", relayed)
    copying = SoftDirtyCopy(ends(child.pid, carrier))
    send_round()
    send_round()
    assert not any(carrier.forgotten)
    monkeypatch.setattr(soft_dirty, "private_mappings", failing(error))
    send_round()
    assert carrier.forgotten[-1] == [image]


SHARED = 7 << 8 | PS_TYPE_SHMEM


class PlayedPreDumps:
    """A chain of pre-dumps, each of which plays its session, and fails if the chain is `lost`."""

    def __init__(self, sessions: Sequence[Session], *, lost: bool = False) -> None:
        self._sessions, self._lost = list(sessions), lost
        self.kept = self.closed = 0

    @property
    def parent(self) -> str | None:
        return f"../predump-{self.kept}" if self.kept else None

    def begin(self) -> PlayedPreDumps:
        self._session = self._sessions.pop(0)
        self.pages = self._session.pages
        return self

    def ask(self) -> None:
        self._session.play()

    def wait(self, timeout_s: float, progress: Callable[[], int]) -> None:
        self._session.join()
        if self._lost:
            raise ConversationLost("it did not go on")

    def close(self) -> None:
        self.closed += 1

    def keep(self) -> None:
        self.kept += 1


class Move:
    """A way by pre-dumps, with what each finds; `last` is what the dump finds."""

    def __init__(
        self,
        child: Child,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        session: Callable[..., Session],
        *rounds: Sequence[Found],
        last: Sequence[Found] = (),
        **options: bool,
    ) -> None:
        self.image = dst_id_of_process(child.pid)
        self.sessions = [session({self.image: found, SHARED: [(0, 1, 5)]}) for found in rounds]
        self.last = session({self.image: last})
        self.predumps = PlayedPreDumps(self.sessions, **options)
        monkeypatch.setattr(soft_dirty, "PreDumps", lambda *_: self.predumps)
        ends: Any = Ends(child.pid, directory, Dump(self.last))
        self.ends, self.copying = ends, SoftDirtyCopy(ends)

    def freeze(self, child: Child) -> dict[int, int]:
        """Dump, send the last pages, and return their bytes by page of the child's buffer."""
        self.ends.pages.batches.clear()
        self.copying.dump()
        self.copying.send_last([child.pid], lambda pid: [])
        return {
            (vaddr - child.address) // PAGE_SIZE: content
            for (dst_id, vaddr), content in self.ends.content().items()
            if dst_id == self.image
        }


Make = Callable[..., Move]


@pytest.fixture
def make(
    child: Child,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    session: Callable[..., Session],
) -> Make:
    """Return a function that makes a way for the child."""
    return lambda *rounds, **options: Move(
        child, tmp_path, monkeypatch, session, *rounds, **options
    )


def test_each_round_has_what_was_written_since(child: Child, make: Make) -> None:
    whole: list[Found] = [(child.address, PAGES, 1)]
    second: list[Found] = [
        (child.address, 3, None),
        (child.address + 3 * PAGE_SIZE, 2, 2),
        (child.address + 5 * PAGE_SIZE, PAGES - 5, None),
    ]
    move = make(whole, second, last=second)
    assert move.copying.attach() is Reach.ALL
    assert move.copying.send_round() == PAGES * PAGE_SIZE
    assert move.copying.send_round() == 2 * PAGE_SIZE
    assert (SHARED, 0) not in move.ends.content(), "what processes share goes with the dump"
    assert (move.predumps.kept, move.predumps.closed) == (2, 2)
    assert [session.parents[move.image] for session in move.sessions] == [False, True]
    assert move.freeze(child) == {3: 2, 4: 2}
    assert move.ends.dump.parent == "../predump-2"
    assert move.last.parents[move.image]
    report = move.ends.progress.report
    assert report.sent.pages_skipped_parent == PAGES - 2
    assert report.notes == ["2 pages were left for the freeze"]
    assert [message.dst_id for message in move.ends.streamed] == [move.image]


def test_pages_that_only_criu_takes_for_sent_are_sent(child: Child, make: Make) -> None:
    """An exec leads to such pages. The freeze sends them at the latest."""
    first: list[Found] = [(child.address, 2, 1)]
    odd: list[Found] = [(child.address, 5, None)]
    move = make(first, odd, last=odd)
    move.copying.send_round()
    move.copying.send_round()
    content = move.freeze(child)
    assert not move.last.parents[move.image], "nothing of it counts as sent"
    assert content == {page: page + 1 for page in range(5)}


def test_a_pre_dump_that_fails_is_ended_and_not_built_upon(child: Child, make: Make) -> None:
    move = make([(child.address, 1, 1)], lost=True)
    with pytest.raises(ConversationLost, match="did not go on"):
        move.copying.send_round()
    assert (move.predumps.kept, move.predumps.closed) == (0, 1)


def test_direct_io_is_not_seen_so_all_is_read(
    child: Child, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[Found] = [(child.address, 10, 1)]
    parents: list[Found] = [(child.address, 10, None)]
    move = make(whole, parents, last=parents)
    for _ in range(2):
        move.copying.send_round()
    monkeypatch.setattr(soft_dirty, "reads_directly", lambda pid: True)
    assert move.freeze(child) == {page: page + 1 for page in range(10)}


def test_memory_that_was_mapped_elsewhere_meanwhile_is_read(
    child: Child, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[Found] = [(child.address, 10, 1)]
    parents: list[Found] = [(child.address, 10, None)]
    move = make(whole, parents, last=parents)
    with monkeypatch.context() as before:
        before.setattr(soft_dirty, "private_mappings", lambda pid: [(0x1000, 0x2000)])
        for _ in range(2):
            move.copying.send_round()
    assert move.freeze(child) == {page: page + 1 for page in range(10)}


def test_memory_of_processes_that_ended_is_forgotten(
    child: Child, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[Found] = [(child.address, 10, 1)]
    move = make(whole, [])
    move.copying.send_round()
    monkeypatch.setattr(processes, "tree_of", lambda pid: [])
    move.copying.send_round()
    assert [move.image] in move.ends.pages.forgotten
    move.copying.close()
