"""Tests of checkpoint/memory/pager/address_spaces.py: tasks change their mappings meanwhile."""

from __future__ import annotations

import pytest

from checkpoint.memory.tracking.write_protection import PAGE_SIZE
from tests.unit.checkpoint.memory.pager.programs.layout import ELSEWHERE, START
from tests.unit.checkpoint.memory.pager.tasks import (
    EVERY,
    OTHER_PID,
    PAGES,
    PID,
    TIMEOUT_S,
    Target,
    addresses,
)


def test_what_was_dropped_does_not_come_back(target: Target) -> None:
    task, pager = target.task(), target.pager()
    target.restore(task)
    assert task.touch(50) == 51
    task.do("dontneed(START + 40 * PAGE, 40)")
    assert [task.touch(page) for page in (39, 40, 50, 79, 80)] == [40, 0, 0, 0, 81]
    pager.fill()
    pager.wait(TIMEOUT_S)
    assert task.stamps() == EVERY[:40] + [0] * 40 + EVERY[80:]


#: The code that moves mappings, and what is where then: (page, START or ELSEWHERE, numbers).
MOVES: dict[str, tuple[str, list[tuple[int, int, list[int]]]]] = {
    "all": ("remap(START, ELSEWHERE, 300)", [(0, ELSEWHERE, EVERY)]),
    "the middle": (
        "remap(START + 70 * PAGE, ELSEWHERE, 33)",
        [(0, START, EVERY[:70]), (0, ELSEWHERE, EVERY[70:103]), (103, START, EVERY[103:])],
    ),
    "over another part": (
        "remap(START + 200 * PAGE, START + 10 * PAGE, 90)",
        [(0, START, EVERY[:10] + EVERY[200:290] + EVERY[100:200]), (290, START, EVERY[290:])],
    ),
    "and grow": ("remap(START, ELSEWHERE, 300, 320)", [(0, ELSEWHERE, EVERY + [0] * 20)]),
    "and shrink": ("remap(START, ELSEWHERE, 300, 100)", [(0, ELSEWHERE, EVERY[:100])]),
    "and a part back": (
        "remap(START, ELSEWHERE, 300); remap(ELSEWHERE + 20 * PAGE, START + 20 * PAGE, 50)",
        [(0, ELSEWHERE, EVERY[:20]), (20, START, EVERY[20:70]), (70, ELSEWHERE, EVERY[70:])],
    ),
    "and map something in its place": (
        "remap(START, ELSEWHERE, 300); map_at(START, 300)",
        [(0, ELSEWHERE, EVERY), (0, START, [0] * PAGES)],
    ),
}


@pytest.mark.parametrize("filled", [False, True], ids=["touched", "filled"])
@pytest.mark.parametrize("name", MOVES)
def test_content_moves_with_its_mapping(target: Target, name: str, filled: bool) -> None:
    task, pager = target.task(), target.pager()
    target.restore(task)
    assert task.touch(80) == 81
    told, expected = MOVES[name]
    task.do(told)
    if filled:
        pager.fill()
        pager.wait(TIMEOUT_S)
    for page, start, stamps in expected:
        assert task.stamps(start + page * PAGE_SIZE, len(stamps)) == stamps


@pytest.mark.parametrize("filled", [False, True], ids=["touched", "filled"])
def test_a_fork_finds_what_its_parent_had(target: Target, filled: bool) -> None:
    task, pager = target.task(), target.pager()
    target.restore(task)
    assert task.touch(20) == 21
    fork = task.fork()
    if filled:
        pager.fill()
        pager.wait(TIMEOUT_S)
    assert task.stamps() == EVERY
    assert fork.stamps() == EVERY


def test_what_is_done_after_a_fork_is_done_to_one(target: Target) -> None:
    task, pager = target.task(), target.pager()
    target.restore(task)
    fork = task.fork()
    task.do("dontneed(START, 100)")
    grandchild = fork.fork()
    fork.do("remap(START, ELSEWHERE, 300)")
    grandchild.do("unmap(START + 250 * PAGE, 50)")
    pager.fill()
    pager.wait(TIMEOUT_S)
    assert task.stamps() == [0] * 100 + EVERY[100:]
    assert fork.stamps(ELSEWHERE) == EVERY
    assert grandchild.stamps(START, 250) == EVERY[:250]


def test_what_is_unmapped_is_wanted_no_more(target: Target) -> None:
    task, pager = target.task(), target.pager()
    target.restore(task)
    task.do("unmap(START + 100 * PAGE, 50)")
    task.do("unmap(START + 290 * PAGE, 10)")
    pager.fill()
    pager.wait(TIMEOUT_S)
    assert task.stamps(START, 100) == EVERY[:100]
    assert task.stamps(START + 150 * PAGE_SIZE, 140) == EVERY[150:290]
    assert pager.served.copied_bytes == 240 * PAGE_SIZE


def test_when_all_is_unmapped_nothing_is_missing(target: Target) -> None:
    task, pager = target.task(), target.pager()
    target.restore(task)
    task.do("unmap(START, 300)")
    pager.fill()
    pager.wait(TIMEOUT_S)
    assert pager.served.copied_bytes == 0


@pytest.mark.parametrize("protection", [0, 1], ids=["PROT_NONE", "PROT_READ"])
def test_mappings_split_by_their_protection_are_filled_all_the_same(
    target: Target, protection: int
) -> None:
    """The kernel copies nothing into two mappings at once."""
    task, pager = target.task(), target.pager()
    target.restore(task)
    for start, pages in ((37, 100), (299, 1)):
        task.do(f"protect(START + {start} * PAGE, {pages}, {protection})")
    assert [task.touch(page) for page in (36, 137, 298)] == [37, 138, 299]
    pager.fill()
    pager.wait(TIMEOUT_S)
    assert task.present() == list(range(PAGES))
    task.do("protect(START, 300, 3)")
    assert task.stamps() == EVERY


@pytest.mark.parametrize(
    "told",
    [
        "os._exit(0)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.execv('/bin/sleep', ['sleep', '1000'])",
    ],
    ids=["ended", "killed", "became another"],
)
def test_a_task_that_is_gone_needs_nothing(target: Target, told: str) -> None:
    task, other = target.task(), target.task()
    pager = target.pager({PID: addresses((0, PAGES)), OTHER_PID: addresses((0, PAGES))})
    target.restore(task, other)
    fork = task.fork()
    task.tell(told)
    task.await_end()
    assert other.touch(7) == 8
    pager.fill()
    pager.wait(TIMEOUT_S)
    assert other.stamps() == EVERY
    assert fork.stamps() == EVERY
