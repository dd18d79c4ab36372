"""What the contract tests have: a CRIU, a runtime, processes to dump, and an interposer."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from checkpoint.criu import page_server
from checkpoint.criu.edits import Edits
from checkpoint.criu.images.pagemap import PageImages
from checkpoint.criu.interposer import Conversation, Interposer
from checkpoint.criu.roles import DumpRole, RestoreRole
from checkpoint.criu.shim_install import install_shim, rpc_socket
from tests.fakes import task as task_program

FAKES = Path(__file__).parent.parent / "fakes"
#: A limit in seconds to what takes well under one. Only a failure reaches it.
LIMIT_S = 30.0
PAGE_SIZE = 4096
DUMP_NOTIFICATIONS = ["pre-dump", "query-ext-files", "post-dump"]
RESTORE_NOTIFICATIONS = ["pre-restore", "post-restore", "pre-resume", "post-resume"]
IPTABLES = 1  # criu_network_lock_method of rpc.proto
EDITS = Edits(nftables=True, one_cgroup=True)
Event = dict[str, Any]


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds that the kernel does not announce."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.002)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A CRIU.

    `record` is the file in which the fake CRIU writes what it was asked.
    """

    real: bool
    directory: Path
    record: Path | None

    def recorded(self, key: str) -> list[Any]:
        """Return what the fake CRIU wrote under a name, in its order."""
        assert self.record is not None
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [entry[key] for line in lines if key in (entry := json.loads(line))]


class Runtime:
    """A process of tests/fakes/runtime.py, with its events."""

    def __init__(self, spec: dict[str, Any], env: dict[str, str]) -> None:
        argv = [sys.executable, "-B", str(FAKES / "runtime.py"), json.dumps(spec)]
        self.process = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.events: list[Event] = []
        self._queue: queue.Queue[Event | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def wait_for(self, event: str, **fields: Any) -> Event:
        """Wait for an event and return it. The events before it are kept in `events`."""
        while True:
            found = self._queue.get(timeout=LIMIT_S)
            assert found is not None, f"the runtime ended without {event} {fields}: {self.events}"
            self.events.append(found)
            if found["event"] == event and fields.items() <= found.items():
                return found

    def finish(self) -> list[Event]:
        """Wait for the end of the runtime, and return all its events."""
        self.wait_for("ended")
        self.process.wait(LIMIT_S)
        return self.events

    def named(self, event: str) -> list[Event]:
        return [found for found in self.events if found["event"] == event]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(LIMIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Task:
    """A process of tests/fakes/task.py, and its child.

    Both have the same pids again after a dump and a restore.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-B", str(FAKES / "task.py")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        self.pid = self._process.pid
        until(
            lambda: len(self.tree()) == 2 and all(self.counter(pid) > 0 for pid in self.tree()),
            "a task that counts",
        )

    def tree(self) -> list[int]:
        found = [self.pid]
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(
                int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            )
        return found

    def memory(self, pid: int, address: int, size: int) -> bytes:
        with open(f"/proc/{pid}/mem", "rb", 0) as memory:
            memory.seek(address)
            return bytes(memory.read(size))

    def counter(self, pid: int) -> int:
        """Return the number in a process's memory, or 0 if there is none yet."""
        try:
            data = self.memory(pid, task_program.REGION, task_program.COUNTER.size)
        except OSError:
            return 0
        return int(task_program.COUNTER.unpack(data)[0]) if data else 0

    def frozen(self) -> bool:
        return all(state_of(pid) == "t" for pid in self.tree())

    def check_runs(self) -> None:
        """Wait until each process has counted on."""
        for pid in self.tree():
            until(partial(self._counted_on, pid, self.counter(pid)), f"process {pid} to run")
            assert state_of(pid) in "SR"

    def _counted_on(self, pid: int, before: int) -> bool:
        return self.counter(pid) > before

    def wait_killed(self) -> None:
        """Wait until the process was killed and its pid is free again."""
        assert self._process.wait(LIMIT_S) == -signal.SIGKILL

    def close(self) -> None:
        for pid in reversed(self.tree()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(LIMIT_S)


def state_of(pid: int) -> str:
    """Return the state letter of proc_pid_stat(5), or "" if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Ended:
    """A mixin of roles, to wait until a conversation is over and its descriptors are closed."""

    def __init__(self, edits: Edits, *others: Path) -> None:
        super().__init__(edits, *others)  # type: ignore[call-arg]
        self.over = threading.Event()

    def ended(self, conversation: Conversation, kind: str) -> None:
        super().ended(conversation, kind)  # type: ignore[misc]
        if kind == self.kind:  # type: ignore[attr-defined]
            self.over.set()

    def wait_over(self) -> None:
        assert self.over.wait(LIMIT_S), "the conversation did not end"


class Dump(Ended, DumpRole):
    """A DumpRole with a page server in a thread.

    The page server completes the images, and keeps `received`: {(pid, address): page}.
    """

    def __init__(self, images: Path, edits: Edits = EDITS) -> None:
        super().__init__(edits)
        self.received: dict[tuple[int, int], bytes] = {}
        self.failure: Exception | None = None
        self._images = images
        self._server = threading.Thread(target=self._serve, daemon=True)
        self._server.start()

    def _serve(self) -> None:
        try:
            with PageImages(self._images) as images:
                sink = Tee(images, self.received)
                page_server.serve(
                    self.pages,
                    page_server.wire_struct(40201),
                    sink,
                    before_close=images.write_pagemaps,
                    has_parent=lambda _: self.parent is not None,
                )
        except Exception as error:  # noqa: BLE001  (looked at by the test)
            self.failure = error

    def close(self) -> None:
        """End the page server, and close its socket.

        The socket that was meant for CRIU is closed too, if no CRIU took it.
        """
        with contextlib.suppress(OSError):
            self.pages.shutdown(socket.SHUT_RDWR)
        self._server.join(LIMIT_S)
        self.pages.close()
        self._criu_pages.close()


class Tee:
    """A sink of the page server that keeps the pages, too."""

    def __init__(self, images: PageImages, pages: dict[tuple[int, int], bytes]) -> None:
        self._images, self._pages = images, pages

    def extent(self, dst_id: int, vaddr: int, pages: int, flags: int, data: memoryview) -> None:
        self._images.extent(dst_id, vaddr, pages, flags, data)
        for offset in range(0, len(data), page_server.PAGE_SIZE):
            self._pages[dst_id >> 8, vaddr + offset] = bytes(
                data[offset : offset + page_server.PAGE_SIZE]
            )


class Restore(Ended, RestoreRole):
    """A RestoreRole whose end can be waited for."""


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, and collect its status."""
    process.kill()
    process.communicate()


@dataclass
class Scene:
    """The surroundings of an interposer. As a context it ends all that was started in it."""

    peer: Peer
    directory: Path
    images: Path = field(init=False)
    env: dict[str, str] = field(init=False)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Scene:
        self.images = self.directory / "images"
        self.images.mkdir()
        (self.directory / "move").mkdir()
        self.env = install_shim(self.directory / "move")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def shim(self) -> Path:
        return self.directory / "move" / "bin" / "criu"

    @property
    def socket_path(self) -> Path:
        return rpc_socket(self.directory / "move")

    def task(self) -> Task:
        return self._stack.enter_context(contextlib.closing(Task()))

    def runtime(self, kind: str, *, interposed: bool = True, **spec: Any) -> Runtime:
        """Start a runtime with a request of a kind. A dump or a restore is of `images`."""
        if kind in ("DUMP", "RESTORE"):
            spec["images"] = str(self.images)
        env = self.env if interposed else {**self.env, "PATH": self.env["PATH"].partition(":")[2]}
        spec = {"kind": kind, "log": str(self.directory / "criu.log"), **spec}
        return self._stack.enter_context(contextlib.closing(Runtime(spec, env)))

    def dump_of(self, task: Task, *, opts: dict[str, Any] | None = None, **spec: Any) -> Runtime:
        """Start a runtime that dumps a task.

        The runtime asks for iptables, and for a freezer cgroup that does not exist.
        """
        freezer = "/sys/fs/cgroup/freezer/there-is-none"
        options = {
            "pid": task.pid,
            "network_lock": IPTABLES,
            "freeze_cgroup": freezer,
            **(opts or {}),
        }
        return self.runtime("DUMP", opts=options, **spec)

    def holder(self, kind: str, gate: str) -> subprocess.Popen[bytes]:
        """Start an interposer in a process of its own, which stays at a gate.

        The process prints "listening", and then "reached".
        """
        argv = [
            sys.executable,
            "-B",
            str(Path(__file__).parent / "holder.py"),
            kind,
            gate,
            str(self.socket_path),
        ]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self._stack.callback(end, process)
        return process

    @contextlib.contextmanager
    def dump_role(self, edits: Edits = EDITS) -> Iterator[Dump]:
        """Yield the role of an interposer that holds dumps."""
        with (
            contextlib.closing(Dump(self.images, edits)) as role,
            Interposer(self.socket_path, role),
        ):
            yield role

    @contextlib.contextmanager
    def restore_role(self) -> Iterator[Restore]:
        """Yield the role of an interposer that holds restores."""
        role = Restore(EDITS, self.images)
        with Interposer(self.socket_path, role):
            yield role


def open_descriptors() -> dict[str, str]:
    """Return {descriptor: what it is open on} of this process."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        try:
            found[path.name] = os.readlink(path)
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return found


def release(role: Dump | Restore) -> None:
    """Let a conversation go on from its request to its second gate."""
    role.request_gate.wait_reached(LIMIT_S)
    role.request_gate.open()
    role.done_gate.wait_reached(LIMIT_S)


def dump_to_images(scene: Scene, task: Task) -> int:
    """Dump a task for good, and return the number that it had counted to."""
    with scene.dump_role() as role:
        runtime = scene.dump_of(task)
        release(role)
        counter = task.counter(task.pid)
        role.done_gate.open()
        assert runtime.finish()[-2]["success"]
        role.wait_over()
    task.wait_killed()
    return counter
