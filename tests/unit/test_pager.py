"""checkpoint/memory/pager/pager.py and keeper.py on real memory: whatever happens, a task finds what it had, or zeros.

A task is a process of its own, as its faults block it; the test itself is CRIU, and mostly the pager.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from checkpoint.criu.page_server import dst_id_of_process
from checkpoint.errors import ImageError
from checkpoint.memory.pager import keeper as keeper_module
from checkpoint.memory.pager.address_spaces import AddressSpaces
from checkpoint.memory.pager.filler import AROUND_BYTES, LEAST_CHUNK_BYTES, MOST_CHUNK_BYTES, Filler
from checkpoint.memory.pager.keeper import MOST_FDS, Keeper
from checkpoint.memory.pager.pager import INTEGER, RESTORED, SOCKET, Pager
from checkpoint.memory.pager.uffd_copy import Buffer, NotNow
from checkpoint.memory.ranges import Range
from checkpoint.memory.store import PageStore
from checkpoint.memory.tracking.write_protection import PAGE_SIZE, UFFDIO_API, UFFDIO_REGISTER

ROOT = Path(__file__).resolve().parents[2]
#: Turns what would hang into a failure.
TIMEOUT_S = 20.0
PID, OTHER_PID = 7, 8
START, ELSEWHERE = 0x1000_0000_0000, 0x2000_0000_0000
PAGES, MANY_PAGES = 300, (64 << 20) // PAGE_SIZE
NEAR = AROUND_BYTES // PAGE_SIZE
#: The content of page k is the number k + 1, as often as it fits; of a page without any, 0.
EVERY = list(range(1, PAGES + 1))
#: prctl(2)
PR_SET_CHILD_SUBREAPER = 36

#: Does what it is told on its standard input, and answers with the value of `answer`.
OBEDIENT = f"""
import ctypes, fcntl, json, os, resource, signal, socket, struct, sys, threading
PAGE, START, ELSEWHERE = {PAGE_SIZE}, {START}, {ELSEWHERE}
channel = socket.socket(fileno=os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
def obey(channel):
    while told := channel.recv(1 << 16):
        globals()["answer"] = None
        exec(told, globals())
        channel.send(json.dumps(answer).encode())
def content(page):
    return struct.pack("=Q", page + 1) * (PAGE // 8)
"""

#: As CRIU leaves one: memory with nothing in it, and somebody else has the userfaultfd that watches it.
TASK = (
    OBEDIENT
    + f"""
API, REGISTER = {UFFDIO_API}, {UFFDIO_REGISTER}
FORK, REMAP, REMOVE, UNMAP, MODE_MISSING = 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1
"""
    + """
libc = ctypes.CDLL(None, use_errno=True)
word = ctypes.c_void_p
libc.mmap.argtypes, libc.mmap.restype = [word, word, ctypes.c_int, ctypes.c_int, ctypes.c_int, word], word
libc.mremap.argtypes, libc.mremap.restype = [word, word, word, ctypes.c_int, word], word
libc.madvise.argtypes = libc.mprotect.argtypes = [word, word, ctypes.c_int]
libc.munmap.argtypes, libc.memcpy.argtypes = [word, word], [word, word, word]
def check(done):
    if not done:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def map_at(start, pages):
    check(libc.mmap(start, pages * PAGE, 3, 0x32, -1, 0) == start)
def remap(old, new, pages, new_pages=None):
    check(libc.mremap(old, pages * PAGE, (new_pages or pages) * PAGE, 3, new) == new)
def dontneed(start, pages):
    check(libc.madvise(start, pages * PAGE, 4) == 0)
def unmap(start, pages):
    check(libc.munmap(start, pages * PAGE) == 0)
def protect(start, pages, protection):
    check(libc.mprotect(start, pages * PAGE, protection) == 0)
def read(address):
    copy = ctypes.create_string_buffer(PAGE)
    libc.memcpy(copy, address, PAGE)
    return copy.raw
def stamp(address):
    page = read(address)
    (first,) = struct.unpack_from("=Q", page)
    return first if page == struct.pack("=Q", first) * (PAGE // 8) else -1
def stamps(start, pages):
    return [stamp(start + page * PAGE) for page in range(pages)]
def present(start, pages):
    with open("/proc/self/pagemap", "rb", 0) as pagemap:
        pagemap.seek(start // PAGE * 8)
        entries = struct.unpack(f"={pages}Q", pagemap.read(pages * 8))
    return [page for page, entry in enumerate(entries) if entry >> 62]
def fork():
    global channel
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        channel.close()
        channel = theirs
        obey(channel)
        os._exit(0)
    theirs.close()
    hand_over(ours.detach())
def hand_over(descriptor):
    socket.send_fds(channel, [b"-"], [descriptor])
    os.close(descriptor)
map_at(START, int(sys.argv[1]))
uffd = libc.syscall(323, os.O_CLOEXEC | os.O_NONBLOCK)
check(uffd >= 0)
fcntl.ioctl(uffd, API, bytearray(struct.pack("3Q", 0xAA, FORK | REMAP | REMOVE | UNMAP, 0)))
fcntl.ioctl(uffd, REGISTER, bytearray(struct.pack("4Q", START, int(sys.argv[1]) * PAGE, MODE_MISSING, 0)))
hand_over(uffd)
obey(channel)
"""
)

#: A pager that can be killed. `dies` wraps a function: the pager dies in its n-th call, "before" or "after" it is made.
PAGER = (
    OBEDIENT
    + """
from pathlib import Path
from checkpoint.memory.pager import keeper, pager as pager_module, uffd_copy
from checkpoint.memory.store import PageStore
directory, image, pages, descriptors = Path(sys.argv[1]), *map(int, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
store = PageStore(directory.parent)
store.put(image, START, memoryview(b"".join(map(content, range(pages)))))
own = os.getpid()
def dies(function, call, when):
    def counted(*arguments):
        nonlocal call
        call -= os.getpid() == own
        if call == 0 and when == "before":
            os.kill(own, signal.SIGKILL)
        result = function(*arguments)
        if call == 0:
            os.kill(own, signal.SIGKILL)
        return result
    return counted
ranges = {image: [(START, START + pages * PAGE)]}
pager = pager_module.Pager(directory, store, ranges, keeper.Keeper(directory.parent), print)
obey(channel)
"""
)


class Obedient:
    """Does what it is told."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        channel.settimeout(TIMEOUT_S)

    def tell(self, told: str) -> None:
        self._channel.send(told.encode())

    def answer(self) -> Any:
        data = self._channel.recv(1 << 20)
        assert data, "it ended"
        return json.loads(data)

    def do(self, told: str) -> Any:
        self.tell(told)
        return self.answer()

    def descriptor(self) -> int:
        """One that is handed over."""
        _, fds, _, _ = socket.recv_fds(self._channel, 1, 1)
        assert fds, "it ended"
        return fds[0]

    def await_end(self) -> None:
        assert self._channel.recv(1) == b""

    def close(self) -> None:
        self._channel.close()


class Memory(Obedient):
    """What a task sees from START on, unless told otherwise."""

    def __init__(self, channel: socket.socket, pages: int) -> None:
        super().__init__(channel)
        self._pages = pages
        self._forks: list[Memory] = []

    def touch(self, page: int, start: int = START) -> int:
        return int(self.do(f"answer = stamp({start} + {page} * PAGE)"))

    def stamps(self, start: int = START, pages: int = 0) -> list[int]:
        found: list[int] = self.do(f"answer = stamps({start}, {pages or self._pages})")
        return found

    def present(self) -> list[int]:
        """Pages that are there, without touching any."""
        found: list[int] = self.do(f"answer = present(START, {self._pages})")
        return found

    def fork(self) -> Memory:
        """The child's."""
        self.tell("fork()")
        self._forks.append(Memory(socket.socket(fileno=self.descriptor()), self._pages))
        assert self.answer() is None
        return self._forks[-1]

    def close(self) -> None:
        for fork in self._forks:
            fork.close()
        super().close()


class Process:
    """A python of its own."""

    def __init__(self, code: str, *arguments: object) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-c", code, *map(str, arguments)]
        with theirs:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                argv, stdin=theirs.fileno(), cwd=ROOT, start_new_session=True
            )
        self.pid = self._process.pid

    def kill(self) -> None:
        """With all that it forked."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        return self._process.wait(TIMEOUT_S)


class Task(Memory):
    """With a mapping at START that is as CRIU leaves it."""

    def __init__(self, pages: int) -> None:
        self.process = Process(TASK, pages)
        super().__init__(self.process.channel, pages)
        self.uffd = self.descriptor()

    def end(self) -> None:
        self.process.kill()
        self.close()


class MortalPager(Obedient):
    """One in a process of its own, with a store of its own. It has that many descriptors at first."""

    def __init__(self, directory: Path, pages: int, descriptors: int) -> None:
        self.process = Process(PAGER, directory, dst_id_of_process(PID), pages, descriptors)
        super().__init__(self.process.channel)
        assert self.do("answer = 'ready'") == "ready"

    def keeper(self) -> int:
        (keeper,) = children(self.process.pid)
        return keeper

    def kill(self) -> None:
        """It alone."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        self.process.kill()
        self.close()


class Restore:
    """CRIU's end of the socket (criu/uffd.c)."""

    def __init__(self, directory: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(directory / SOCKET))

    def send(self, task: Task, pid: int = PID) -> None:
        self._socket.send(INTEGER.pack(pid))
        socket.send_fds(self._socket, [b"\0"], [task.uffd])
        os.close(task.uffd)

    def send_bare(self, *descriptors: int) -> None:
        """A task, with as many descriptors as it should not have."""
        self._socket.send(INTEGER.pack(PID))
        socket.send_fds(self._socket, [b"\0"], descriptors)

    def zombie(self) -> None:
        self._socket.send(INTEGER.pack(-1))

    def restored(self) -> None:
        self._socket.send(INTEGER.pack(RESTORED))
        self.close()

    def close(self) -> None:
        self._socket.close()


class GatedStore(PageStore):
    """A pager that reads it stands still while the gate is closed."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.reached, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def close_gate(self) -> None:
        self.reached.clear()
        self.gate.clear()

    def read(self, dst_id: int, vaddr: int, view: memoryview) -> None:
        self.reached.set()
        assert self.gate.wait(TIMEOUT_S)
        super().read(dst_id, vaddr, view)


class Target:
    """The host that is moved to."""

    def __init__(self, move: Path) -> None:
        self.move, self.directory = move, move / "images"
        self.directory.mkdir(parents=True)
        self.store = GatedStore(move)
        for pid in (PID, OTHER_PID):
            self.store.put(
                dst_id_of_process(pid), START, memoryview(b"".join(map(content, range(PAGES))))
            )
        self._processes: list[Task | MortalPager] = []
        self._pagers: list[Pager] = []
        self.lost: list[str] = []
        self._children = children()

    def task(self, pages: int = PAGES) -> Task:
        self._processes.append(task := Task(pages))
        return task

    def pager(self, lazy: dict[int, list[Range]] | None = None) -> Pager:
        """By default of one task, all of whose memory is lazy."""
        ranges = {PID: addresses((0, PAGES))} if lazy is None else lazy
        self._pagers.append(
            pager := Pager(
                self.directory,
                self.store,
                {dst_id_of_process(pid): ranges[pid] for pid in ranges},
                Keeper(self.move),
                self.lost.append,
            )
        )
        return pager

    def mortal_pager(self, pages: int = PAGES, descriptors: int = 1024) -> MortalPager:
        self._processes.append(pager := MortalPager(self.directory, pages, descriptors))
        return pager

    def restore(self, *tasks: Task) -> None:
        """All that CRIU does."""
        restore = Restore(self.directory)
        for pid, task in zip((PID, OTHER_PID), tasks, strict=False):
            restore.send(task, pid)
        restore.restored()

    def processes(self) -> set[int]:
        """All children of this process but keepers."""
        return self._children | {process.process.pid for process in self._processes}

    def keeper(self) -> int:
        """Of the pager in this process, or of one that was killed."""
        (keeper,) = children() - self.processes()
        return keeper

    def close(self) -> None:
        for process in self._processes:
            process.end()
        self.store.gate.set()
        for pager in self._pagers:
            in_time(pager.stop)
        with self.store:
            pass


def content(page: int) -> bytes:
    return struct.pack("=Q", page + 1) * (PAGE_SIZE // 8)


def addresses(*pages: Range) -> list[Range]:
    return [(START + first * PAGE_SIZE, START + end * PAGE_SIZE) for first, end in pages]


def near(pages: Iterable[int]) -> list[int]:
    """What comes with pages that are touched."""
    firsts = {page - page % NEAR for page in pages}
    return sorted(page for first in firsts for page in range(first, min(first + NEAR, PAGES)))


def in_time(function: Callable[[], object]) -> None:
    """Call what might not return."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive(), "it hangs"


def soon(holds: Callable[[], bool]) -> None:
    """Wait until it does; nothing depends on how long that takes."""
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.001)


def children(pid: int | None = None) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children()}


def exit_code(pid: int) -> int:
    """Of a child of ours, when it ends."""
    found = (0, 0)

    def reaped() -> bool:
        nonlocal found
        found = os.waitpid(pid, os.WNOHANG)
        return found[0] == pid

    soon(reaped)
    return os.waitstatus_to_exitcode(found[1])


def holdings() -> tuple[set[int], list[threading.Thread], list[str]]:
    """Children, threads and descriptors."""
    gc.collect()
    return children(), threading.enumerate(), sorted(os.listdir("/proc/self/fd"))


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    """Orphans come to us meanwhile: they can be waited for, and none is left."""
    libc, score = ctypes.CDLL(None), Path("/proc/self/oom_score_adj")
    children_before, score_before = children(), score.read_text()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    target = Target(tmp_path / "move")
    try:
        yield target
    finally:
        try:
            target.close()
        finally:
            for orphan in children() - children_before:
                os.kill(orphan, signal.SIGKILL)
                exit_code(orphan)
            libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
            score.write_text(score_before)


# --- serving ---------------------------------------------------------------------------------------------


def test_what_is_touched_comes_and_what_is_not_stays_away(target: Target) -> None:
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


def test_what_was_written_again_comes_in_chunks_between_which_faults_are_served(
    target: Target,
) -> None:
    """All of it may be one piece."""
    task, all_pages = target.task(), {dst_id_of_process(PID): addresses((0, PAGES))}
    spaces = AddressSpaces(all_pages)
    with contextlib.ExitStack() as stack:
        stack.callback(spaces.close_all)
        filler = Filler(target.store, spaces)
        filler.watch(spaces.open(task.uffd, PID))
        filler.bring_first(all_pages)
        filler.turn(fill=False)
        assert len(task.present()) == LEAST_CHUNK_BYTES // PAGE_SIZE
        while len(task.present()) < PAGES:
            filler.turn(fill=False)
    assert task.stamps() == EVERY


def test_memory_is_not_in_place_before(target: Target) -> None:
    task, pager = target.task(), target.pager()
    target.restore(task)
    with pytest.raises(ImageError, match=r"not in place after 0\.01 s"):
        pager.wait(0.01)
    assert task.touch(5) == 6


def test_what_was_never_lazy_is_zero(target: Target) -> None:
    """A page that is neither left to us nor in the images had no content."""
    task, pager = target.task(), target.pager({PID: addresses((0, 10), (21, PAGES))})
    target.restore(task)
    assert [task.touch(page) for page in (9, 10, 20, 21)] == [10, 0, 0, 22]
    pager.fill()
    pager.wait(TIMEOUT_S)
    assert task.present() == [page for page in range(PAGES) if page not in range(11, 20)]
    assert task.stamps() == EVERY[:10] + [0] * 11 + EVERY[21:]


def test_several_tasks_and_a_zombie_of_one_restore(target: Target) -> None:
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


# --- what tasks do meanwhile -----------------------------------------------------------------------------


def test_what_was_dropped_does_not_come_back(target: Target) -> None:
    task, pager = target.task(), target.pager()
    target.restore(task)
    assert task.touch(50) == 51
    task.do("dontneed(START + 40 * PAGE, 40)")
    assert [task.touch(page) for page in (39, 40, 50, 79, 80)] == [40, 0, 0, 0, 81]
    pager.fill()
    pager.wait(TIMEOUT_S)
    assert task.stamps() == EVERY[:40] + [0] * 40 + EVERY[80:]


#: What is done, and what is where then: (page, at START or ELSEWHERE, stamps).
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
    task.do(
        f"protect(START + 37 * PAGE, 100, {protection}); protect(START + 299 * PAGE, 1, {protection})"
    )
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


def test_a_task_is_killed_while_its_page_is_looked_up(target: Target) -> None:
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


def test_who_could_not_be_served_is_served_later(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread's change of mappings was read, but the thread did not run since: the kernel refuses copies until then.

    It tells nobody when they are possible.
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


def test_a_thread_waits_for_what_another_replaces(target: Target) -> None:
    """It goes on with what is there then."""
    task = target.task()
    target.pager()
    target.restore(task)
    target.store.close_gate()
    task.do(
        "seen = []; reader = threading.Thread(target=lambda: seen.append(stamp(START)), daemon=True)"
    )
    task.do("reader.start()")
    assert target.store.reached.wait(TIMEOUT_S)
    task.tell("map_at(START, 1)")
    maps, replaced = Path(f"/proc/{task.process.pid}/maps"), f"{START:x}-{START + PAGE_SIZE:x} "
    soon(lambda: replaced in maps.read_text())
    target.store.gate.set()
    task.answer()
    assert task.do(f"reader.join({TIMEOUT_S / 2}); answer = seen") == [0]


# --- the stand-by ----------------------------------------------------------------------------------------


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


def test_a_keeper_that_was_stopped_keeps_nobody_waiting(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More events than its socket has room for; at the end it is killed."""
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


def test_a_pager_that_fails_hands_over(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """More descriptors than one message takes, and the task's pages are in the last."""
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
    """The pager's other descriptors end with the pager; the end of its session is not the keeper's."""
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


#: Each leaves the task with the stamps that are named, from START or ELSEWHERE on.
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
    )  # a change was passed on before a later fault was answered
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


def test_all_that_happened_is_known_even_when_it_was_not_followed_yet(target: Target) -> None:
    """The keeper is told first."""
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
def test_the_pager_is_killed_while_it_fills(target: Target, copy: int, when: str) -> None:
    task, pager = target.task(MANY_PAGES), target.mortal_pager(MANY_PAGES)
    target.restore(task)
    pager.do(f"uffd_copy.Buffer.copy = dies(uffd_copy.Buffer.copy, {copy}, {when!r})")
    pager.tell("pager.fill()")
    pager.process.wait()
    assert exit_code(target.keeper()) == 0
    assert len(task.present()) == MANY_PAGES
    assert task.stamps() == list(range(1, MANY_PAGES + 1))
    assert not target.move.exists()


def test_what_changed_while_it_filled_is_known(target: Target) -> None:
    """What was filled may be gone again, or be somewhere else, when the pager is killed."""
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
def test_who_waits_when_the_pager_is_killed_goes_on(
    target: Target, page: int, function: str, when: str
) -> None:
    """The kernel tells of a fault once; the keeper never hears of it."""
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


def test_more_forks_than_descriptors(target: Target) -> None:
    """Each brings one. A pager that fails for want of them has a keeper that does, too."""
    task, pager = target.task(), target.mortal_pager(descriptors=64)
    target.restore(task)
    assert task.touch(100) == 101
    task.do("for _ in range(100):\n if not os.fork(): os._exit(0)\n os.wait()")
    pager.do("pager.fill()")
    assert task.stamps() == EVERY
    pager.do(f"pager.wait({TIMEOUT_S / 2})")


# --- the end ---------------------------------------------------------------------------------------------


def test_nobody_came(target: Target) -> None:
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
def test_a_task_comes_with_one_descriptor(target: Target, descriptors: tuple[int, ...]) -> None:
    pager = target.pager()
    restore = Restore(target.directory)
    restore.send_bare(*descriptors)
    with pytest.raises(ImageError, match=f"userfaultfd of task {PID}"):
        pager.wait(TIMEOUT_S)
    restore.close()
