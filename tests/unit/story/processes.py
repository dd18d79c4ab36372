"""The two hosts of a test, each of which is a process of warm.py, and the processes on them."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from checkpoint.host.ready import ready
from tests.fakes import task

T = TypeVar("T")
CLONE_FS, CLONE_NEWNS = 0x200, 1 << 17
libc = ctypes.CDLL(None, use_errno=True)
PROGRAM = Path(__file__).with_name("warm.py")
#: A limit in seconds to what takes milliseconds. Only a failure reaches it.
LIMIT_S = 10.0


class Child:
    """A process that warm.py made, with what the product uses of subprocess.Popen.

    Several threads may wait for the process.
    """

    stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = os.pidfd_open(pid)
        self._reaping = threading.Lock()

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status of the process. Raises subprocess.TimeoutExpired."""
        if self.returncode is None and not ready(self._pidfd, timeout_s=timeout):
            raise subprocess.TimeoutExpired(["story"], timeout or 0.0)
        with self._reaping:
            if self.returncode is None:
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def poll(self) -> int | None:
        """Return the exit status of the process, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def kill(self) -> None:
        """Send SIGKILL to the process, unless its status was collected."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """End the process, and collect its status."""
        self.kill()
        self.wait(LIMIT_S)
        os.close(self._pidfd)


def enter(namespace: int) -> None:
    """Put this thread into a mount namespace.

    The root and the working directory of the thread are then the root of that namespace.
    """
    if libc.unshare(CLONE_FS) or libc.setns(namespace, CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Host:
    """One of two hosts on this machine: a running warm.py.

    The hosts differ in the directories of all files of the product with a fixed name: each host has
    a mount namespace, which threads enter. A host must be made in the main thread, because the
    host's processes end with the thread that made them.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-B", str(PROGRAM), str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        self._asking = threading.Lock()
        # Once a process has been made, warm.py has its mount namespace.
        self.make("nothing").close()

    def enter(self) -> None:
        """Have this thread, and those that it starts, run on this host."""
        namespace = os.open(f"/proc/{self._process.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(namespace)
        finally:
            os.close(namespace)

    @contextlib.contextmanager
    def visited(self) -> Iterator[None]:
        """Have this thread run on this host in the block, and where it was before after that."""
        before, directory = (
            os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC),
            os.getcwd(),
        )
        self.enter()
        os.chdir(directory)
        try:
            yield
        finally:
            enter(before)
            os.close(before)
            os.chdir(directory)

    def is_here(self) -> bool:
        """Return whether this thread runs on this host."""
        own = os.stat("/proc/thread-self/ns/mnt")
        return os.path.samestat(own, os.stat(f"/proc/{self._process.pid}/ns/mnt"))

    def path(self, path: str) -> str:
        """Return the path by which any thread finds a path of this host."""
        return f"/proc/{self._process.pid}/root{path}"

    def do(self, action: Callable[[], T]) -> T:
        """Call a function in a thread on this host, and return its result."""

        def there() -> T:
            self.enter()
            return action()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(there).result(LIMIT_S)

    def make(self, kind: str, **spec: Any) -> Child:
        """Have warm.py make a process of a kind, and return that."""
        with self._asking:
            self._control.send(json.dumps({"kind": kind, **spec}).encode())
            answer = self._control.recv(64)
        assert answer, "warm.py ended"
        return Child(int(answer))

    def close(self) -> None:
        """End warm.py."""
        self._control.close()
        assert self._process.wait(LIMIT_S) == 0


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds that nothing announces."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.0005)


def state_of(pid: int) -> str:
    """Return the state letter of proc_pid_stat(5), or "" if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def memory(pid: int) -> bytes:
    """Return the region of tests/fakes/task.py in a process, or b"" if it has none."""
    try:
        with open(f"/proc/{pid}/mem", "rb", 0) as file:
            file.seek(task.REGION)
            return bytes(file.read(task.PAGES * task.PAGE_SIZE))
    except (OSError, ValueError):
        return b""


def counter(pid: int) -> int | None:
    """Return how far a container has counted, or None if it does not exist."""
    found = memory(pid)[: task.COUNTER.size]
    return int(task.COUNTER.unpack(found)[0]) if found else None


def counts(pid: int, timeout_s: float) -> bool:
    """Return whether a container counts on before a time limit.

    A container that was told to go on may take a moment to do so.
    """
    before, deadline = counter(pid), time.monotonic() + timeout_s
    while (
        before is not None and state_of(pid) not in ("Z", "X", "") and time.monotonic() < deadline
    ):
        if (now := counter(pid)) is not None and now > before:
            return True
        time.sleep(0.0005)
    return False
