"""Tests of migrate/memory/soft_dirty.py: not all that CRIU calls unchanged is taken for it."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from checkpoint.criu.page_server import PAGE_SIZE, PE_PARENT, PE_PRESENT, dst_id_of_process
from migrate.memory import soft_dirty
from migrate.memory.page_map import Dumped
from migrate.memory.soft_dirty import HUGE_PAGE, SoftDirtyCopy
from tests.unit.helpers.obedient import Child
from tests.unit.migrate.memory.carrier import Carrier
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
