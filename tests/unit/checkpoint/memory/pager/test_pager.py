"""Tests of checkpoint/memory/pager/pager.py on real memory: a task finds what it had, or zeros.

A task is a process of its own, since its faults block it. The test does CRIU's part.
"""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest

from checkpoint.criu.page_server import dst_id_of_process
from checkpoint.errors import ImageError
from checkpoint.memory.pager.uffd_copy import Buffer, NotNow
from checkpoint.memory.tracking.write_protection import PAGE_SIZE
from tests.unit.checkpoint.memory.pager.programs.layout import START, content
from tests.unit.checkpoint.memory.pager.tasks import (
    EVERY,
    OTHER_PID,
    PAGES,
    PID,
    TIMEOUT_S,
    Restore,
    Target,
    addresses,
    children,
    in_time,
    near,
    soon,
)


def holdings() -> tuple[set[int], list[threading.Thread], list[str]]:
    """Return the children, the threads and the descriptors of this process."""
    gc.collect()
    return children(), threading.enumerate(), sorted(os.listdir("/proc/self/fd"))


def test_pages_come_when_they_are_touched_and_others_do_not(target: Target) -> None:
    task, pager = target.task(), target.pager()
    target.restore(task)
    touched = [0, 3, 150, 17, PAGES - 1]
    assert [task.touch(page) for page in touched] == [page + 1 for page in touched]
    assert task.present() == near(touched)
    soon(lambda: pager.served.copied_bytes == len(near(touched)) * PAGE_SIZE)
    soon(lambda: len(pager.served.waits_ns) == 4)  # page 3 came with page 0
    assert all(wait > 0 for wait in pager.served.waits_ns)
    assert pager.served.finished_ns == 0


def test_a_fill_brings_everything(target: Target) -> None:
    task, pager = target.task(), target.pager()
    target.restore(task)
    assert task.touch(100) == 101
    pager.fill()
    pager.wait(TIMEOUT_S)
    assert task.present() == list(range(PAGES))
    assert task.stamps() == EVERY
    assert pager.served.copied_bytes == PAGES * PAGE_SIZE
    assert len(pager.served.waits_ns) == 1
    assert pager.served.finished_ns > 0
    assert target.directory.exists(), "that is for its owner to remove"


def test_what_was_written_again_and_again_comes_before_it_is_touched(target: Target) -> None:
    for page in (40, 41, 200):
        target.store.put(
            dst_id_of_process(PID), START + page * PAGE_SIZE, memoryview(content(page))
        )
    task, pager = target.task(), target.pager()
    target.restore(task)
    assert task.touch(100) == 101
    pager.warm()
    soon(lambda: task.present() == sorted([*near([100]), 40, 41, 200]))
    assert [task.touch(page) for page in (40, 41, 200)] == [41, 42, 201]
    assert len(pager.served.waits_ns) == 1


def test_memory_is_not_in_place_before_the_fill(target: Target) -> None:
    task, pager = target.task(), target.pager()
    target.restore(task)
    with pytest.raises(ImageError, match=r"not in place after 0\.01 s"):
        pager.wait(0.01)
    assert task.touch(5) == 6


def test_what_was_never_lazy_is_zero(target: Target) -> None:
    """A page that is neither lazy nor in the image files had no content."""
    task, pager = target.task(), target.pager({PID: addresses((0, 10), (21, PAGES))})
    target.restore(task)
    assert [task.touch(page) for page in (9, 10, 20, 21)] == [10, 0, 0, 22]
    pager.fill()
    pager.wait(TIMEOUT_S)
    assert task.present() == [page for page in range(PAGES) if page not in range(11, 20)]
    assert task.stamps() == EVERY[:10] + [0] * 11 + EVERY[21:]


def test_several_tasks_and_a_zombie_of_one_restore_are_served(target: Target) -> None:
    first, second = target.task(), target.task()
    pager = target.pager({PID: addresses((0, PAGES)), OTHER_PID: addresses((20, 40))})
    restore = Restore(target.directory)
    restore.send(first, PID)
    restore.zombie()
    assert first.touch(30) == 31  # CRIU itself may touch what it restores
    restore.send(second, OTHER_PID)
    restore.restored()
    assert (second.touch(30), second.touch(3)) == (31, 0)
    pager.fill()
    pager.wait(TIMEOUT_S)
    assert first.stamps() == EVERY
    assert second.stamps() == [0] * 20 + EVERY[20:40] + [0] * 260


def test_where_nothing_is_missing_nothing_is_waited_for(target: Target) -> None:
    task, pager = target.task(), target.pager({})
    target.restore(task)
    pager.wait(TIMEOUT_S)
    assert pager.served.copied_bytes == 0
    assert task.stamps() == [0] * PAGES


def test_a_task_killed_while_its_page_is_looked_up_ends_no_other(target: Target) -> None:
    task, other = target.task(), target.task()
    pager = target.pager({PID: addresses((0, PAGES)), OTHER_PID: addresses((0, PAGES))})
    target.restore(task, other)
    assert (task.touch(100), other.touch(100)) == (101, 101)
    target.store.close_gate()
    task.tell("stamp(START)")
    assert target.store.reached.wait(TIMEOUT_S)
    task.process.kill()
    target.store.gate.set()
    assert other.touch(0) == 1
    pager.fill()
    pager.wait(TIMEOUT_S)
    assert other.stamps() == EVERY


def test_a_fault_that_could_not_be_served_is_served_later(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses copies between a thread's change of mappings and its next run.

    The kernel does not tell when copies are possible again.
    """
    refusals, copy = [1], Buffer.copy

    def refused_at_first(buffer: Buffer, uffd: int, address: int, size: int) -> int:
        if refusals:
            refusals.pop()
            raise NotNow
        return copy(buffer, uffd, address, size)

    task = target.task()
    target.pager()
    target.restore(task)
    assert task.touch(100) == 101
    monkeypatch.setattr(Buffer, "copy", refused_at_first)
    assert task.touch(0) == 1
    assert refusals == []


def test_a_thread_that_waits_for_a_replaced_page_goes_on(target: Target) -> None:
    """The thread goes on with what is there then."""
    task = target.task()
    target.pager()
    target.restore(task)
    target.store.close_gate()
    task.do("seen = []; look = lambda: seen.append(stamp(START))")
    task.do("reader = threading.Thread(target=look, daemon=True)")
    task.do("reader.start()")
    assert target.store.reached.wait(TIMEOUT_S)
    task.tell("map_at(START, 1)")
    maps, replaced = Path(f"/proc/{task.process.pid}/maps"), f"{START:x}-{START + PAGE_SIZE:x} "
    soon(lambda: replaced in maps.read_text())
    target.store.gate.set()
    task.answer()
    assert task.do(f"reader.join({TIMEOUT_S / 2}); answer = seen") == [0]


def test_a_pager_without_a_restore_leaves_nothing(target: Target) -> None:
    before = holdings()
    pager = target.pager()
    in_time(pager.stop)
    assert holdings() == before


def test_nothing_is_left_when_all_is_done(target: Target) -> None:
    before = holdings()
    task, pager = target.task(), target.pager()
    target.restore(task)
    pager.fill()
    pager.wait(TIMEOUT_S)
    in_time(pager.stop)
    task.end()
    assert holdings() == before


def test_nothing_is_left_when_it_is_stopped_while_a_task_waits(target: Target) -> None:
    before = holdings()
    task, pager = target.task(), target.pager()
    restore = Restore(target.directory)
    restore.send(task)
    target.store.close_gate()
    task.tell("stamp(START)")
    assert target.store.reached.wait(TIMEOUT_S)
    stopping = threading.Thread(target=pager.stop)
    stopping.start()
    target.store.gate.set()
    stopping.join(TIMEOUT_S)
    restore.close()
    task.end()
    assert holdings() == before


def test_a_restore_that_ends_early_ends_the_pager(target: Target) -> None:
    before = holdings()
    task, pager = target.task(), target.pager()
    restore = Restore(target.directory)
    restore.send(task)
    assert task.touch(100) == 101
    restore.close()
    pager.wait(TIMEOUT_S)
    task.end()
    assert holdings() == before


@pytest.mark.parametrize("descriptors", [(), (0, 0)], ids=["none", "two"])
def test_a_task_without_its_one_descriptor_is_refused(
    target: Target, descriptors: tuple[int, ...]
) -> None:
    pager = target.pager()
    restore = Restore(target.directory)
    restore.send_bare(*descriptors)
    with pytest.raises(ImageError, match=f"userfaultfd of task {PID}"):
        pager.wait(TIMEOUT_S)
    restore.close()
