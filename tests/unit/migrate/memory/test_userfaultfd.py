"""Tests of migrate/memory/userfaultfd.py: processes that end or hide during a round."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.criu.page_server import PAGE_SIZE, PS_TYPE_SHMEM, dst_id_of_process
from checkpoint.errors import (
    ConversationLost,
    CriuFailed,
    ImageError,
    ProcError,
    TrackingUnavailable,
)
from checkpoint.host import processes
from checkpoint.memory.tracking import tracker, write_protection
from migrate.memory import userfaultfd
from migrate.memory.copying import Reach
from migrate.memory.userfaultfd import UserfaultfdCopy
from tests.unit.helpers.obedient import PAGES, Child
from tests.unit.migrate.memory.carrier import Carrier
from tests.unit.migrate.memory.dumping import Dump, Ends, Session
from tests.unit.migrate.memory.ends import ERRORS, ends, failing


@pytest.fixture
def carrier() -> Carrier:
    return Carrier()


@pytest.fixture
def copying(child: Child, carrier: Carrier) -> Iterator[UserfaultfdCopy]:
    with contextlib.closing(UserfaultfdCopy(ends(child.pid, carrier))) as copying:
        assert copying.attach() is Reach.ALL
        copying.send_round()
        yield copying


@pytest.mark.parametrize("error", ERRORS)
def test_a_process_that_cannot_be_looked_at_is_taken_for_unsent(
    child: Child, copying: UserfaultfdCopy, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    assert copying.known[child.pid]
    with monkeypatch.context() as patched:
        patched.setattr(write_protection, "private_mappings", failing(error))
        assert copying.send_round() == 0
    assert child.pid not in copying.known
    child.do("fill(3, 9)")
    assert copying.send_round() > 0


@pytest.mark.parametrize("error", [ProcError("no flags"), OSError(errno.EMFILE, os.strerror(24))])
def test_a_process_whose_files_are_not_known_may_have_one_open_for_direct_io(
    child: Child, copying: UserfaultfdCopy, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(tracker, "reads_directly", failing(error))
    assert copying.send_round() == 0
    assert copying.attach() is Reach.NONE
    assert child.pid not in copying.known


def test_a_process_that_ended_is_forgotten(
    child: Child, copying: UserfaultfdCopy, carrier: Carrier
) -> None:
    child.end()
    assert copying.send_round() == 0
    assert copying.attach() is Reach.NONE
    assert carrier.forgotten[-1] == [dst_id_of_process(child.pid)]


SHARED = 7 << 8 | PS_TYPE_SHMEM
#: As Child fills its pages.
CONTENT = {page: page % 250 + 1 for page in range(PAGES)}


def nothing_lazy(pid: int) -> list[tuple[int, int]]:
    return []


Made = Callable[..., tuple[UserfaultfdCopy, Ends]]


@pytest.fixture
def made(tmp_path: Path, child: Child, session: Callable[..., Session]) -> Iterator[Made]:
    """Yield a function that makes the way for the child. To CRIU the parent has all its pages."""
    with contextlib.ExitStack() as stack:

        def make(*, lost: bool = False) -> Any:
            parents = [(child.address, PAGES, None)]
            found = {dst_id_of_process(child.pid): parents, SHARED: [(0, 1, 9)]}
            ends: Any = Ends(child.pid, tmp_path, Dump(session(found, fails=lost), lost=lost))
            copying = stack.enter_context(contextlib.closing(UserfaultfdCopy(ends)))
            assert copying.attach() is Reach.ALL
            return copying, ends

        yield make


def of_buffer(ends: Ends, child: Child) -> dict[int, int]:
    """Return what the target has of the child's buffer, by page."""
    image = dst_id_of_process(child.pid)
    return {
        (vaddr - child.address) // PAGE_SIZE: content
        for (dst_id, vaddr), content in ends.content().items()
        if dst_id == image and child.buffer[0][0] <= vaddr < child.buffer[0][1]
    }


def test_what_was_written_since_the_last_round_is_sent_in_the_freeze(
    child: Child, made: Made, tmp_path: Path
) -> None:
    copying, ends = made()
    assert copying.send_round() >= PAGES * PAGE_SIZE
    assert of_buffer(ends, child) == CONTENT
    child.do("fill(7, 251)\nfill(20, 252)")
    assert copying.send_round() < PAGES * PAGE_SIZE
    child.do("fill(20, 253)\nfill(21, 0)")
    ends.pages.batches.clear()
    copying.dump()
    copying.send_last([child.pid], nothing_lazy)
    assert of_buffer(ends, child) == {20: 253, 21: 0}
    assert ends.content()[SHARED, 0] == 9, "CRIU itself sends what processes share"
    assert ends.dump.parent == "../all-memory"
    assert (tmp_path / "all-memory/inventory.img").exists()
    report = ends.progress.report
    assert report.sent.pages_skipped_parent == PAGES
    assert report.notes == ["3 pages were left for the freeze"]


def test_page_maps_come_first_and_say_what_may_be_lazy(child: Child, made: Made) -> None:
    copying, ends = made()
    copying.send_round()
    copying.dump()
    lazy = (child.address, child.address + 2 * PAGE_SIZE)
    copying.send_last([child.pid], lambda pid: [lazy] if pid == child.pid else [])
    maps = {message.dst_id: [tuple(each) for each in message.extents] for message in ends.streamed}
    assert maps == {
        dst_id_of_process(child.pid): [(lazy[0], 2, True), (lazy[1], PAGES - 2, False)],
        SHARED: [(0, 1, False)],
    }


def test_without_a_round_all_is_sent_in_the_freeze(child: Child, made: Made) -> None:
    copying, ends = made()
    copying.dump()
    copying.send_last([child.pid], nothing_lazy)
    assert of_buffer(ends, child) == CONTENT


def test_a_process_of_which_criu_found_nothing_is_passed_over(child: Child, made: Made) -> None:
    """A zombie is such a process, and none of its memory can be read."""
    copying, ends = made()
    copying.send_round()
    copying.dump()
    other = Child()
    try:
        copying.send_last([child.pid, other.pid], nothing_lazy)
        dst_ids = {dst_id for dst_id, _ in ends.content()}
        assert dst_id_of_process(other.pid) not in dst_ids
    finally:
        other.end()


def test_a_page_that_cannot_be_read_fails_the_move(child: Child, made: Made) -> None:
    copying, _ = made()
    child.do("libc.munmap(ctypes.c_void_p(address), 4096)")
    copying.dump()
    with pytest.raises(ImageError, match="cannot be read"):
        copying.send_last([child.pid], nothing_lazy)


@pytest.mark.parametrize(
    ("log", "error", "said"),
    [
        ("", ConversationLost, "CRIU ended"),
        ("Error (criu/mem.c:1): no luck\n", CriuFailed, "no luck"),
    ],
)
def test_a_dump_that_fails_says_why(
    made: Made, tmp_path: Path, log: str, error: type[Exception], said: str
) -> None:
    copying, _ = made(lost=True)
    (tmp_path / "images/dump.log").write_text(log)
    with pytest.raises(error, match=said):
        copying.dump()


def test_a_process_that_cannot_be_tracked_is_told_once(
    child: Child,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    session: Callable[..., Session],
) -> None:
    def refused(pid: int) -> None:
        raise TrackingUnavailable(f"process {pid}: no userfaultfd for it")

    monkeypatch.setattr(userfaultfd, "Tracker", refused)
    ends: Any = Ends(child.pid, tmp_path, Dump(session({})))
    with contextlib.closing(UserfaultfdCopy(ends)) as copying:
        assert copying.attach() is Reach.NONE
        assert copying.attach() is Reach.NONE
    told = "not tracked, copied while frozen: process"
    assert [note.startswith(told) for note in ends.progress.report.notes] == [True]


def test_a_process_that_ended_meanwhile_is_nobodys_fault(
    child: Child,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    session: Callable[..., Session],
) -> None:
    ends: Any = Ends(child.pid, tmp_path, Dump(session({})))
    copying = UserfaultfdCopy(ends)
    monkeypatch.setattr(processes, "tree_of", lambda _: [child.pid])
    child.end()
    assert copying.attach() is Reach.NONE
    assert ends.progress.report.notes == []


def test_where_the_kernel_tracks_by_itself_writes_are_forgotten_before_the_dump(
    child: Child, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CRIU then sends the pages that are soft-dirty, which are those written afterwards."""
    forgotten: list[list[int]] = []
    monkeypatch.setattr(userfaultfd, "forget_writes", forgotten.append)
    monkeypatch.setattr(userfaultfd, "kerndat_with_tracking", lambda: b"")
    copying, _ = made()
    assert copying.by_criu
    copying.send_round()
    copying.dump()
    assert forgotten == [[child.pid]]
