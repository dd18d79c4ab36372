"""Tests of checkpoint/memory/tracking/tracker.py: written pages of real processes are found.

No process notices that it is tracked.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.errors import TrackingUnavailable
from checkpoint.memory import ranges
from checkpoint.memory.process_memory import read_pages
from checkpoint.memory.ranges import Range
from checkpoint.memory.tracking.tracker import Tracker, reads_directly, written_at_last
from checkpoint.memory.tracking.write_protection import PAGE_SIZE
from tests.unit.helpers.obedient import PAGES, Child

ATTACHMENTS = 100


@contextlib.contextmanager
def tracked(pid: int) -> Iterator[Tracker]:
    tracker = Tracker(pid)
    try:
        yield tracker
    finally:
        tracker.close()


def content(pid: int, wanted: list[Range]) -> bytes:
    return b"".join(bytes(data) for _, data in read_pages(pid, wanted))


def watched(pid: int) -> int:
    """Return how many mappings are registered for write protection (VmFlags `uw`, proc(5))."""
    lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    return sum("uw" in line.split() for line in lines if line.startswith("VmFlags:"))


def open_fds(pid: int | str) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


EVERY = list(range(PAGES))


def test_the_first_call_finds_every_page_and_later_ones_what_was_written(child: Child) -> None:
    dirty = [0, 3, 4, 5, 77, PAGES - 1]
    with tracked(child.pid) as tracker:
        assert child.pages(tracker.written()) == EVERY
        child.do(f"for page in {dirty}: fill(page, 255)")
        found = tracker.written()
        assert child.pages(found) == dirty
        wanted = ranges.intersection(ranges.union(found, []), child.buffer)
        assert content(child.pid, wanted) == b"\xff" * PAGE_SIZE * len(dirty)
        assert child.pages(tracker.written()) == []


def test_the_last_look_does_not_protect(child: Child) -> None:
    with tracked(child.pid) as tracker:
        tracker.written()
        child.do("fill(8, 255)")
        assert child.pages(written_at_last(child.pid)) == [8]
        assert child.pages(written_at_last(child.pid)) == [8]
        assert child.pages(tracker.written()) == [8]


def test_the_last_look_finds_each_of_many_pieces_once(child: Child) -> None:
    """The pieces are more than fit the kernel's buffer of 512."""
    pages = 2048
    child.do(
        f"more = mmap.mmap(-1, {pages * PAGE_SIZE}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "more.madvise(mmap.MADV_NOHUGEPAGE)\n"
        f"more[::{PAGE_SIZE}] = bytes([1]) * {pages}\n"
        "answer = ctypes.addressof(ctypes.c_char.from_buffer(more))"
    )
    with contextlib.closing(Tracker(child.pid)) as tracker:
        tracker.written()
        child.do(f"more[::{2 * PAGE_SIZE}] = bytes([2]) * {pages // 2}")
        for found in (written_at_last(child.pid), tracker.written()):
            assert sum(end - start == PAGE_SIZE for start, end in found) >= pages // 2
            assert all(before[1] < after[0] for before, after in itertools.pairwise(found)), (
                "in order, and disjoint"
            )


def test_all_of_an_untracked_process_counts_as_written(child: Child) -> None:
    assert child.pages(written_at_last(child.pid)) == EVERY
    assert child.pages(written_at_last(child.pid)) == EVERY


def test_memory_mapped_later_is_tracked_too(child: Child) -> None:
    with tracked(child.pid) as tracker:
        tracker.written()
        child.do(
            f"later = mmap.mmap(-1, {4 * PAGE_SIZE}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS);"
            f"later[:] = b'x' * {4 * PAGE_SIZE}"
        )
        start = child.do("answer = ctypes.addressof(ctypes.c_char.from_buffer(later))")
        region = [(start, start + 4 * PAGE_SIZE)]
        assert ranges.intersection(ranges.union(tracker.written(), []), region) == region
        child.do(f"later[{2 * PAGE_SIZE}] = 1")
        written = ranges.intersection(tracker.written(), region)
        assert written == [(start + 2 * PAGE_SIZE, start + 3 * PAGE_SIZE)]


def test_after_exec_everything_counts_as_written(child: Child) -> None:
    with tracked(child.pid) as tracker:
        tracker.written()
        child.send("os.execv(sys.executable, sys.orig_argv)")
        child.address = child.answer()
        tracker.written()
        assert child.pages(written_at_last(child.pid)) == EVERY


def test_a_forked_child_is_left_alone(child: Child) -> None:
    with tracked(child.pid) as tracker:
        tracker.written()
        code = "r, w = os.pipe()\nanswer = os.fork()\nif not answer:\n os.read(r, 1); os._exit(0)"
        forked = child.do(code)
        assert watched(forked) == 0
        assert child.pages(written_at_last(forked)) == EVERY
        assert content(forked, child.buffer) == content(child.pid, child.buffer)
        child.do("fill(5, 255)")
        assert child.pages(tracker.written()) == [5]
        assert (
            content(forked, [(child.address + 5 * PAGE_SIZE, child.address + 6 * PAGE_SIZE)])[0]
            == 6
        )
        assert child.do(f"os.write(w, b'x'); answer = os.waitpid({forked}, 0)[1]") == 0


def test_closing_leaves_no_trace(child: Child) -> None:
    ours, theirs = open_fds("self"), open_fds(child.pid)
    with tracked(child.pid) as tracker:
        tracker.written()
        assert watched(child.pid) > 0
        assert open_fds(child.pid) == theirs
    assert watched(child.pid) == 0
    assert (open_fds("self"), open_fds(child.pid)) == (ours, theirs)
    status = Path(f"/proc/{child.pid}/status").read_text()
    assert "TracerPid:\t0\n" in status
    assert "SigBlk:\t0000000000000000\n" in status
    assert child.do("answer = 6 * 7") == 42


def test_a_process_can_be_tracked_again(child: Child) -> None:
    for _ in range(3):
        with tracked(child.pid) as tracker:
            assert child.pages(tracker.written()) == EVERY
            child.do("fill(1, 9)")
            assert child.pages(tracker.written()) == [1]


def test_memory_that_another_tracker_watches_is_refused(child: Child) -> None:
    with tracked(child.pid):
        fds = open_fds("self")
        with pytest.raises(TrackingUnavailable):
            Tracker(child.pid)
        assert open_fds("self") == fds


def test_direct_io_is_not_seen_and_so_not_tracked(child: Child, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE_SIZE))
    with tracked(child.pid) as tracker:
        child.do(f"plain = os.open({str(path)!r}, os.O_RDONLY)")
        assert not reads_directly(tracker.pid)
        child.do(f"direct = os.open({str(path)!r}, os.O_RDONLY | os.O_DIRECT)")
        assert reads_directly(tracker.pid)
    fds = open_fds("self")
    with pytest.raises(TrackingUnavailable, match="direct I/O"):
        Tracker(child.pid)
    assert open_fds("self") == fds
    child.do("os.close(direct)")
    with tracked(child.pid):
        pass


FILTERS = {
    "allows all": "(6, 0, 0, 0x7FFF0000),",
    "forbids userfaultfd and close": "(0x20, 0, 0, 0), (0x15, 1, 0, 323), (0x15, 0, 1, 3),"
    "(6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)",
}


@pytest.mark.parametrize("code", FILTERS.values(), ids=list(FILTERS))
def test_seccomp_is_no_obstacle_and_stays_on(child: Child, code: str) -> None:
    child.do(
        f"filter = b''.join(struct.pack('=HBBI', *x) for x in [{code}])\n"
        "place = ctypes.create_string_buffer(filter, len(filter))\n"
        "program = struct.pack('H6xQ', len(filter) // 8, ctypes.addressof(place))\n"
        "assert libc.prctl(38, 1, 0, 0, 0) == 0\n"
        "assert libc.prctl(22, 2, program, 0, 0) == 0"
    )
    with tracked(child.pid) as tracker:
        assert child.pages(tracker.written()) == EVERY
        child.do("fill(7, 255)")
        assert child.pages(tracker.written()) == [7]
    assert "Seccomp:\t2\n" in Path(f"/proc/{child.pid}/status").read_text()
    refused = child.do("answer = libc.syscall(323, 1) < 0")
    assert refused == ("userfaultfd" in code or "323" in code)


def test_writes_of_every_thread_are_seen(child: Child) -> None:
    child.do(
        "import queue\n"
        "queues = [queue.SimpleQueue() for _ in range(4)]\n"
        "done = queue.SimpleQueue()\n"
        "def work(q):\n"
        "    while True:\n"
        "        fill(q.get(), 255)\n"
        "        done.put(1)\n"
        "for q in queues: threading.Thread(target=work, args=(q,), daemon=True).start()"
    )
    with tracked(child.pid) as tracker:
        tracker.written()
        child.do(
            "for number, q in enumerate(queues): q.put(10 * number)\nfor _ in queues: done.get()"
        )
        assert child.pages(tracker.written()) == [0, 10, 20, 30]


def test_a_process_that_ended_cannot_be_tracked(child: Child) -> None:
    fds = open_fds("self")
    child.send("os._exit(0)")
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(TrackingUnavailable, match=str(child.pid)):
        Tracker(child.pid)
    assert open_fds("self") == fds
    child.end()
    fds = open_fds("self")
    with pytest.raises(TrackingUnavailable, match=str(child.pid)):
        Tracker(child.pid)
    assert open_fds("self") == fds


#: Calls that wait (programs/waiting.py), with the right result of each, and the milliseconds that a
#: call may not fall short of.
WAITS: dict[str, tuple[object, int]] = {
    "time.sleep": (None, 10),
    "nanosleep": (0, 10),
    "select": (0, 10),
    "poll": (0, 10),
    "epoll": ([], 10),
    "pipe read": (1, 0),
    "waitpid": (True, 0),
    "lock": (False, 10),
}
WAITING = Path(__file__).parent / "programs/waiting.py"


@pytest.mark.parametrize("name", WAITS)
def test_a_waiting_call_does_not_notice(child: Child, name: str) -> None:
    right, least_ms = WAITS[name]
    child.do(WAITING.read_text())
    child.send(f"answer = wait_again_and_again({name!r}, {right!r}, {least_ms})")
    assert child.answer() == 1
    for _ in range(ATTACHMENTS):
        with tracked(child.pid):
            pass
    os.kill(child.pid, 10)
    answer = child.answer()
    assert (answer["early"], answer["wrong"]) == (0, [])
    assert answer["count"] > 0
