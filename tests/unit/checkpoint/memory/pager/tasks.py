"""Tasks whose memory a pager fills in, pagers that can be killed, and the host that has them."""

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
#: Turns what would hang into a failure.
TIMEOUT_S = 20.0
PID, OTHER_PID = 7, 8
PAGES, MANY_PAGES = 300, (64 << 20) // PAGE_SIZE
NEAR = AROUND_BYTES // PAGE_SIZE
#: The content of page k is the number k + 1, as often as it fits; of a page without any, 0.
EVERY = list(range(1, PAGES + 1))


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

    def __init__(self, program: str, *arguments: object) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-m", f"{PROGRAMS}.{program}", *map(str, arguments)]
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
        self.process = Process("task", pages)
        super().__init__(self.process.channel, pages)
        self.uffd = self.descriptor()

    def end(self) -> None:
        self.process.kill()
        self.close()


class MortalPager(Obedient):
    """One in a process of its own, with a store of its own. It has that many descriptors at first."""

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
