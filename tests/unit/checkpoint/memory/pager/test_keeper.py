"""Tests of checkpoint/memory/pager/keeper.py: the keeper goes on where a pager ended or failed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoint.criu.page_server import dst_id_of_process
from checkpoint.errors import ImageError
from checkpoint.host.ready import ready
from checkpoint.memory.pager import keeper as keeper_module
from checkpoint.memory.pager.filler import MOST_CHUNK_BYTES
from checkpoint.memory.pager.keeper import MOST_FDS, Keeper
from checkpoint.memory.pager.uffd_copy import Buffer
from checkpoint.memory.store import PageStore
from checkpoint.memory.tracking.write_protection import PAGE_SIZE
from tests.unit.checkpoint.memory.pager.programs.layout import ELSEWHERE, START, content
from tests.unit.checkpoint.memory.pager.tasks import (
    EVERY,
    MANY_PAGES,
    NEAR,
    PAGES,
    PID,
    TIMEOUT_S,
    Target,
    addresses,
    children,
    exit_code,
    near,
    soon,
)
from tests.unit.helpers.checkout import ROOT

HOLDER = "tests.unit.checkpoint.memory.pager.programs.holder"


def test_without_a_keeper_the_pager_goes_on(target: Target) -> None:
    task, pager = target.task(), target.pager()
    target.restore(task)
    assert task.touch(100) == 101
    keeper = target.keeper()
    os.kill(keeper, signal.SIGKILL)
    os.waitid(os.P_PID, keeper, os.WEXITED | os.WNOWAIT)
    task.do("dontneed(START, 50)")
    fork = task.fork()
    assert (task.touch(200), fork.touch(60)) == (201, 61)
    pager.fill()
    pager.wait(TIMEOUT_S)
    assert task.stamps() == [0] * 50 + EVERY[50:]
    assert fork.stamps() == [0] * 50 + EVERY[50:]


def test_a_keeper_that_was_stopped_keeps_no_task_waiting(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are more events than its socket has room for. At the end the keeper is killed."""
    monkeypatch.setattr(keeper_module, "PATIENCE_S", 0.1)
    task, pager = target.task(), target.pager()
    target.restore(task)
    assert task.touch(100) == 101
    os.kill(target.keeper(), signal.SIGSTOP)
    for _ in range(1000):
        task.do("dontneed(START, 1)")
    pager.fill()
    pager.wait(TIMEOUT_S)
    assert task.stamps() == [0, *EVERY[1:]]
    assert children() - target.processes() == set()


def test_a_pager_that_fails_hands_over_to_the_keeper(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "no more")

    task, pager = target.task(), target.pager()
    target.restore(task)
    assert task.touch(100) == 101
    monkeypatch.setattr(Buffer, "copy", fail)
    assert task.touch(0) == 1
    with pytest.raises(ImageError, match=r"the stand-by process: .*no more"):
        pager.wait(TIMEOUT_S)
    assert target.lost == ["the pager failed: [Errno 5] no more"]
    assert task.present() == list(range(PAGES))
    assert task.stamps() == EVERY
    assert target.directory.exists(), "the agent lives, and has its logs there"


def test_the_keeper_outlives_the_pager(target: Target) -> None:
    task, pager = target.task(), target.mortal_pager()
    target.restore(task)
    touched = [0, 100, 200]
    assert [task.touch(page) for page in touched] == [page + 1 for page in touched]
    assert task.present() == near(touched)
    keeper = pager.keeper()
    pager.kill()
    assert task.stamps() == EVERY
    assert exit_code(keeper) == 0
    assert task.present() == list(range(PAGES))
    assert not target.move.exists()


def test_the_keeper_has_the_pages_of_many_processes(target: Target) -> None:
    """The descriptors are more than one message takes, and the task's pages are in the last."""
    store, last = PageStore(target.move), PID + 2 * MOST_FDS
    page = memoryview(content(0))
    with store:
        for pid in range(PID + 1, last):
            store.put(dst_id_of_process(pid), START, page)
        store.put(dst_id_of_process(last), START, memoryview(b"".join(map(content, range(PAGES)))))
        keeper = Keeper(target.move)
        keeper.follow(store, {dst_id_of_process(last): addresses((0, PAGES))})
        task = target.task()
        keeper.opened(last, task.uffd)
        os.close(task.uffd)
        assert keeper.take_over()
    assert task.present() == list(range(PAGES))
    assert task.stamps() == EVERY


def test_the_keeper_holds_what_it_needs_and_no_more(target: Target) -> None:
    """The pager's other descriptors end with the pager, and the keeper outlives its session."""
    task, pager = target.task(), target.mortal_pager()
    target.restore(task)
    assert task.touch(100) == 101
    keeper = pager.keeper()
    standard, told_on, claimed, store, uffd = 3, 1, 1, 1, 1
    soon(
        lambda: len(os.listdir(f"/proc/{keeper}/fd")) == standard + told_on + claimed + store + uffd
    )
    os.kill(keeper, signal.SIGHUP)
    pager.kill()
    assert exit_code(keeper) == 0
    assert task.stamps() == EVERY


#: The code that changes mappings, and the numbers that pages from START or ELSEWHERE on are full of
#: then.
CHANGES: dict[str, tuple[str, int, list[int]]] = {
    "dropped": ("dontneed(START + 30 * PAGE, 100)", START, EVERY[:30] + [0] * 100 + EVERY[130:]),
    "unmapped": ("unmap(START + 250 * PAGE, 50)", START, EVERY[:250]),
    "moved": ("remap(START, ELSEWHERE, 300)", ELSEWHERE, EVERY),
    "moved within": (
        "remap(START + 200 * PAGE, START, 100)",
        START,
        EVERY[200:] + EVERY[100:200],
    ),
    "moved, then dropped": (
        "remap(START, ELSEWHERE, 300); dontneed(ELSEWHERE, 100)",
        ELSEWHERE,
        [0] * 100 + EVERY[100:],
    ),
    "dropped, then moved": (
        "dontneed(START, 100); remap(START, ELSEWHERE, 300)",
        ELSEWHERE,
        [0] * 100 + EVERY[100:],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_keeper_knows_what_changed(target: Target, name: str) -> None:
    task, pager = target.task(), target.mortal_pager()
    target.restore(task)
    assert task.touch(60) == 61
    told, start, expected = CHANGES[name]
    task.do(told)
    assert (
        task.touch(180, start) == expected[180]
        # A change is passed on before a later fault is answered.
    )
    keeper = pager.keeper()
    pager.kill()
    assert exit_code(keeper) == 0
    assert task.stamps(start, len(expected)) == expected
    assert not target.move.exists()


def test_the_keeper_knows_forks_and_what_they_changed(target: Target) -> None:
    task, other, pager = target.task(), target.task(), target.mortal_pager()
    target.restore(task, other)
    fork = task.fork()
    task.do("dontneed(START, 100)")
    short_lived = task.fork()
    short_lived.tell("os._exit(0)")
    short_lived.await_end()
    grandchild = fork.fork()
    fork.do("remap(START, ELSEWHERE, 300)")
    grandchild.do("unmap(START + 250 * PAGE, 50)")
    assert (task.touch(50), fork.touch(50, ELSEWHERE), grandchild.touch(50)) == (0, 51, 51)
    keeper = pager.keeper()
    pager.kill()
    assert exit_code(keeper) == 0
    assert task.stamps() == [0] * 100 + EVERY[100:]
    assert fork.stamps(ELSEWHERE) == EVERY
    assert grandchild.stamps(START, 250) == EVERY[:250]
    assert other.stamps() == [0] * PAGES
    assert not target.move.exists()


def test_the_keeper_knows_a_change_that_the_pager_did_not_follow_yet(target: Target) -> None:
    """The keeper is told of a change before the pager follows it."""
    task, pager = target.task(), target.mortal_pager()
    target.restore(task)
    assert task.touch(60) == 61
    pager.do("keeper.Keeper.changed = dies(keeper.Keeper.changed, 1, 'after')")
    task.do("dontneed(START, 100)")
    pager.process.wait()
    assert exit_code(target.keeper()) == 0
    assert task.stamps() == [0] * 100 + EVERY[100:]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("copy", [1, 2, 100, MANY_PAGES * PAGE_SIZE // MOST_CHUNK_BYTES])
def test_the_keeper_brings_all_memory_of_a_pager_killed_while_it_fills(
    target: Target, copy: int, when: str
) -> None:
    task, pager = target.task(MANY_PAGES), target.mortal_pager(MANY_PAGES)
    target.restore(task)
    pager.do(f"uffd_copy.Buffer.copy = dies(uffd_copy.Buffer.copy, {copy}, {when!r})")
    pager.tell("pager.fill()")
    pager.process.wait()
    assert exit_code(target.keeper()) == 0
    assert len(task.present()) == MANY_PAGES
    assert task.stamps() == list(range(1, MANY_PAGES + 1))
    assert not target.move.exists()


def test_the_keeper_knows_what_changed_while_the_pager_filled(target: Target) -> None:
    """A page that was filled may be gone again, or elsewhere, when the pager is killed."""
    task, pager = target.task(MANY_PAGES), target.mortal_pager(MANY_PAGES)
    target.restore(task)
    for page in range(0, MANY_PAGES // 2, NEAR):
        assert task.touch(page) == page + 1
    fork = task.fork()
    task.do("dontneed(START + 1000 * PAGE, 5000)")
    task.do("remap(START + 5000 * PAGE, ELSEWHERE, 8000)")
    pager.do("uffd_copy.Buffer.copy = dies(uffd_copy.Buffer.copy, 50, 'after')")
    pager.tell("pager.fill()")
    pager.process.wait()
    assert exit_code(target.keeper()) == 0
    every = list(range(1, MANY_PAGES + 1))
    assert task.stamps(START, 5000) == every[:1000] + [0] * 4000
    assert task.stamps(ELSEWHERE, 8000) == [0] * 1000 + every[6000:13000]
    assert task.stamps(START + 13000 * PAGE_SIZE, MANY_PAGES - 13000) == every[13000:]
    assert fork.stamps() == every


@pytest.mark.parametrize(
    ("page", "function", "when"),
    [
        (0, "Buffer.copy", "before"),
        (0, "Buffer.copy", "after"),
        (PAGES, "zero", "before"),
        (PAGES, "zero", "after"),
    ],
)
def test_a_task_that_waits_when_the_pager_is_killed_goes_on(
    target: Target, page: int, function: str, when: str
) -> None:
    """The kernel tells of a fault once, and the keeper never hears of it."""
    task, pager = target.task(PAGES + 1), target.mortal_pager()
    target.restore(task)
    assert task.touch(100) == 101
    pager.do(f"uffd_copy.{function} = dies(uffd_copy.{function}, 1, {when!r})")
    task.tell(f"answer = stamp(START + {page} * PAGE)")
    pager.process.wait()
    keeper = target.keeper()
    assert task.answer() == (page + 1 if page < PAGES else 0)
    assert exit_code(keeper) == 0
    assert task.stamps() == [*EVERY, 0]


def test_more_forks_than_descriptors_are_followed(target: Target) -> None:
    """Each fork brings a descriptor. A keeper fails for want of them where the pager does."""
    task, pager = target.task(), target.mortal_pager(descriptors=64)
    target.restore(task)
    assert task.touch(100) == 101
    task.do("for _ in range(100):\n if not os.fork(): os._exit(0)\n os.wait()")
    pager.do("pager.fill()")
    assert task.stamps() == EVERY
    pager.do(f"pager.wait({TIMEOUT_S / 2})")


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("killed", [True, False])
def test_the_keeper_succeeds_a_process_that_was_killed_while_it_held_a_container(
    tmp_path: Path, held: bool, killed: bool
) -> None:
    argv = [sys.executable, "-m", HOLDER, str(tmp_path / "move"), "yes" if held else "no"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as holder:
        assert holder.stdout is not None
        keeper = os.pidfd_open(int(holder.stdout.readline()))
        if killed:
            holder.kill()
        said, _ = holder.communicate()
    assert said == ("('what is needed', 7) 2\n" if held and killed else "")
    assert ready(keeper, timeout_s=TIMEOUT_S)
    os.close(keeper)
    assert (tmp_path / "move").exists() is not killed
