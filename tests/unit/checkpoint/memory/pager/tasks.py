"""Tasks whose memory a pager fills in, pagers that can be killed, and the host that has both."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from checkpoint.criu.page_server import dst_id_of_process
from checkpoint.memory.pager.filler import AROUND_BYTES
from checkpoint.memory.pager.keeper import Keeper
from checkpoint.memory.pager.pager import INTEGER, RESTORED, SOCKET, Pager
from checkpoint.memory.ranges import Range
from checkpoint.memory.store import PageStore
from checkpoint.memory.tracking.write_protection import PAGE_SIZE
from tests.unit.checkpoint.memory.pager.programs.layout import START, content
from tests.unit.helpers.checkout import ROOT

PROGRAMS = "tests.unit.checkpoint.memory.pager.programs"
#: A limit, in seconds, that only a failure reaches.
TIMEOUT_S = 20.0
PID, OTHER_PID = 7, 8
PAGES, MANY_PAGES = 300, (64 << 20) // PAGE_SIZE
NEAR = AROUND_BYTES // PAGE_SIZE
#: The number that each page is full of (programs/layout.py); a page without content is full of 0.
EVERY = list(range(1, PAGES + 1))


class Obedient:
    """A program that does what it is told, through a socket (programs/obedience.py)."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        channel.settimeout(TIMEOUT_S)

    def tell(self, told: str) -> None:
        """Send code to be run."""
        self._channel.send(told.encode())

    def answer(self) -> Any:
        """Return the answer to the code that was sent first."""
        data = self._channel.recv(1 << 20)
        assert data, "it ended"
        return json.loads(data)

    def do(self, told: str) -> Any:
        """Have code run, and return its answer."""
        self.tell(told)
        return self.answer()

    def descriptor(self) -> int:
        """Return a descriptor that the program hands over."""
        _, fds, _, _ = socket.recv_fds(self._channel, 1, 1)
        assert fds, "it ended"
        return fds[0]

    def await_end(self) -> None:
        """Wait until the program has ended."""
        assert self._channel.recv(1) == b""

    def close(self) -> None:
        self._channel.close()


class Memory(Obedient):
    """The memory of a task, from START on where nothing else is said."""

    def __init__(self, channel: socket.socket, pages: int) -> None:
        super().__init__(channel)
        self._pages = pages
        self._forks: list[Memory] = []

    def touch(self, page: int, start: int = START) -> int:
        """Have the task read a page, and return the number that the page is full of."""
        return int(self.do(f"answer = stamp({start} + {page} * PAGE)"))

    def stamps(self, start: int = START, pages: int = 0) -> list[int]:
        """Have the task read pages, and return the numbers that they are full of."""
        found: list[int] = self.do(f"answer = stamps({start}, {pages or self._pages})")
        return found

    def present(self) -> list[int]:
        """Return the numbers of the pages that are there, without touching any."""
        found: list[int] = self.do(f"answer = present(START, {self._pages})")
        return found

    def fork(self) -> Memory:
        """Have the task fork, and return the memory of the child."""
        self.tell("fork()")
        self._forks.append(Memory(socket.socket(fileno=self.descriptor()), self._pages))
        assert self.answer() is None
        return self._forks[-1]

    def close(self) -> None:
        for fork in self._forks:
            fork.close()
        super().close()


class Process:
    """A Python process that runs one of `programs`."""

    def __init__(self, program: str, *arguments: object) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-m", f"{PROGRAMS}.{program}", *map(str, arguments)]
        with theirs:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                argv, stdin=theirs.fileno(), cwd=ROOT, start_new_session=True
            )
        self.pid = self._process.pid

    def kill(self) -> None:
        """Kill the process and all that it forked."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        return self._process.wait(TIMEOUT_S)


class Task(Memory):
    """A process with a mapping at START that is as CRIU leaves it (programs/task.py)."""

    def __init__(self, pages: int) -> None:
        self.process = Process("task", pages)
        super().__init__(self.process.channel, pages)
        self.uffd = self.descriptor()

    def end(self) -> None:
        self.process.kill()
        self.close()


class MortalPager(Obedient):
    """A pager in a process of its own, with a store of its own (programs/mortal_pager.py).

    It has `descriptors` descriptors at first.
    """

    def __init__(self, directory: Path, pages: int, descriptors: int) -> None:
        self.process = Process(
            "mortal_pager", directory, dst_id_of_process(PID), pages, descriptors
        )
        super().__init__(self.process.channel)
        assert self.do("answer = 'ready'") == "ready"

    def keeper(self) -> int:
        (keeper,) = children(self.process.pid)
        return keeper

    def kill(self) -> None:
        """Kill the pager, and nothing that it forked."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        self.process.kill()
        self.close()


class Restore:
    """CRIU's end of the socket to the pager (criu/uffd.c)."""

    def __init__(self, directory: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(directory / SOCKET))

    def send(self, task: Task, pid: int = PID) -> None:
        """Send the userfaultfd of a task."""
        self._socket.send(INTEGER.pack(pid))
        socket.send_fds(self._socket, [b"\0"], [task.uffd])
        os.close(task.uffd)

    def send_bare(self, *descriptors: int) -> None:
        """Send a task with as many descriptors as it should not have."""
        self._socket.send(INTEGER.pack(PID))
        socket.send_fds(self._socket, [b"\0"], descriptors)

    def zombie(self) -> None:
        """Send a task that has no memory."""
        self._socket.send(INTEGER.pack(-1))

    def restored(self) -> None:
        """Say that all tasks are restored."""
        self._socket.send(INTEGER.pack(RESTORED))
        self.close()

    def close(self) -> None:
        self._socket.close()


class GatedStore(PageStore):
    """A page store whose reader stands still while the gate is closed."""

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
    """The target host, as far as a pager needs it."""

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
        """Return a new pager, by default of one task, all of whose memory is lazy."""
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
        """Do all that CRIU does to restore these tasks."""
        restore = Restore(self.directory)
        for pid, task in zip((PID, OTHER_PID), tasks, strict=False):
            restore.send(task, pid)
        restore.restored()

    def processes(self) -> set[int]:
        """Return the pids of all children of this process but keepers."""
        return self._children | {process.process.pid for process in self._processes}

    def keeper(self) -> int:
        """Return the pid of the keeper of the pager in this process, or of one that was killed."""
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


def addresses(*pages: Range) -> list[Range]:
    """Return the addresses of ranges of page numbers."""
    return [(START + first * PAGE_SIZE, START + end * PAGE_SIZE) for first, end in pages]


def near(pages: Iterable[int]) -> list[int]:
    """Return the numbers of the pages that come when these pages are touched."""
    firsts = {page - page % NEAR for page in pages}
    return sorted(page for first in firsts for page in range(first, min(first + NEAR, PAGES)))


def in_time(function: Callable[[], object]) -> None:
    """Call a function that might not return, and fail the test if it does not."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    assert not thread.is_alive(), "it hangs"


def soon(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds; nothing depends on how long that takes."""
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.001)


def children(pid: int | None = None) -> set[int]:
    """Return the pids of the children of a process, by default of this one."""
    return {child.pid for child in psutil.Process(pid).children()}


def exit_code(pid: int) -> int:
    """Wait for the end of a child of this process, and return its exit code."""
    found = (0, 0)

    def reaped() -> bool:
        nonlocal found
        found = os.waitpid(pid, os.WNOHANG)
        return found[0] == pid

    soon(reaped)
    return os.waitstatus_to_exitcode(found[1])
