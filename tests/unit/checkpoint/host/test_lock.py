"""Tests of checkpoint/host/lock.py, with real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from checkpoint.errors import ContainerLocked
from checkpoint.host import lock
from tests.unit.helpers.checkout import ROOT

HOLDER = "tests.unit.checkpoint.host.programs.holder"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lock, "DIRECTORY", tmp_path / "locks")
    return tmp_path / "locks"


class Owner:
    """Another process that holds locks. Use it as a context."""

    def __init__(self, directory: Path, *keys: str) -> None:
        argv = [sys.executable, "-m", HOLDER, str(directory), *keys]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def __enter__(self) -> Owner:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"
        return self

    def end(self, number: signal.Signals | None = None) -> None:
        """End the process by a signal, or by the end of its input."""
        if number is not None:
            self.process.send_signal(number)
        self.process.communicate(timeout=10)

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_refused_task_is_told_who_holds_the_lock(directory: Path) -> None:
    with Owner(directory, "runc-web", "process-1-2") as owner:
        for key in ("runc-web", "process-1-2"):
            with pytest.raises(ContainerLocked) as refused, lock.locked([key], "another"):
                pytest.fail("there are two")
            told = refused.value.holder
            assert told.startswith("migration 12ab from alpha to beta, since 2")
            assert told.endswith(f" UTC, process {owner.process.pid}")
            assert lock.holder_of(key) == told
    assert lock.holder_of("runc-web") is None


def test_all_locks_are_taken_or_none(directory: Path) -> None:
    """A container that has another name to a second engine is still the same process."""
    with Owner(directory, "podman-web", "process-1-2"):
        with pytest.raises(ContainerLocked), lock.locked(["crun-0123", "process-1-2"], "another"):
            pytest.fail("there are two")
        assert lock.holder_of("crun-0123") is None
        with lock.locked(["crun-4567", "process-3-4"], "of another container"):
            assert lock.holder_of("crun-4567") == "of another container"


@pytest.mark.parametrize("number", [None, signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_owner_and_its_file_goes(
    directory: Path, number: signal.Signals | None
) -> None:
    with Owner(directory, "runc-web", "process-1-2") as owner:
        owner.end(number)
        with lock.locked(["runc-web"], "another"):
            assert os.listdir(directory) == ["runc-web"]
            assert lock.holder_of("runc-web") == "another"
    assert os.listdir(directory) == []


def test_a_stopped_owner_still_holds_however_old_its_file_is(directory: Path) -> None:
    with Owner(directory, "runc-web") as owner:
        owner.process.send_signal(signal.SIGSTOP)
        os.utime(directory / "runc-web", (0, 0))
        with pytest.raises(ContainerLocked), lock.locked(["runc-web"], "another"):
            pytest.fail("there are two")
        owner.process.send_signal(signal.SIGCONT)


def test_locks_that_are_left_are_those_of_who_has_copies(directory: Path) -> None:
    """A guardian goes on with the container's locks when the coordinator gives up."""
    with lock.locked(["runc-web", "process-1-2"], "a move") as locks:
        copies = [os.dup(fd) for fd in locks.descriptors]
        locks.leave()
    assert lock.holder_of("runc-web") == "a move"
    with pytest.raises(ContainerLocked), lock.locked(["runc-web"], "another"):
        pytest.fail("there are two")
    for fd in copies:
        os.close(fd)
    lock.sweep()
    assert os.listdir(directory) == []


def test_a_child_does_not_keep_the_lock(directory: Path) -> None:
    """The child is a program that was started, or a process that was only forked.

    checkpoint/memory/pager/keeper.py is such a process.
    """
    with lock.locked(["runc-web"], "one"):
        child = subprocess.Popen(["sleep", "100"])
    with lock.locked(["runc-web"], "one"):
        ready, told = os.pipe()
        forked = os.fork()
        if forked == 0:
            os.read(ready, 1)
            os._exit(0)
    try:
        assert lock.holder_of("runc-web") is None
        with lock.locked(["runc-web"], "another"):
            pass
    finally:
        os.write(told, b"1")
        os.waitpid(forked, 0)
        for fd in (ready, told):
            os.close(fd)
        child.kill()
        child.wait()


def test_one_of_many_threads_has_the_lock_at_a_time(directory: Path) -> None:
    """Each thread adds to a number, which would come out smaller if two were ever inside."""
    counter = directory.parent / "counter"
    counter.write_text("0")
    inside, refused = threading.Semaphore(1), []

    def try_often(_: int) -> None:
        mine = 0
        while mine < 5:
            try:
                with lock.locked(["runc-web", "process-1-2"], "one of many"):
                    assert inside.acquire(blocking=False)
                    counter.write_text(str(int(counter.read_text()) + 1))
                    mine += 1
                    time.sleep(0.0005)
                    inside.release()
            except ContainerLocked as error:
                assert error.holder == "one of many"
                refused.append(mine)
            time.sleep(0.0005)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(try_often, range(8)))
    assert int(counter.read_text()) == 8 * 5
    assert refused
    assert os.listdir(directory) == []


def test_a_directory_that_somebody_keeps_locked_is_not_waited_for_for_ever(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "DIRECTORY_TIMEOUT_S", 0.05)
    with lock.alone(), pytest.raises(TimeoutError), lock.locked(["runc-web"], "another"):
        pytest.fail("it was locked")


def test_the_end_of_a_task_does_not_depend_on_the_directory(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task's own outcome stands, and its locks are free for the next task."""
    monkeypatch.setattr(lock, "DIRECTORY_TIMEOUT_S", 0.05)
    with (
        contextlib.ExitStack() as somebody,
        pytest.raises(KeyError),
        lock.locked(["runc-web"], "one"),
    ):
        somebody.enter_context(lock.alone())
        raise KeyError("the outcome")
    with lock.locked(["runc-web"], "another"):
        assert (directory / "runc-web").read_text() == "another"


def test_only_root_reads_who_moves_what(directory: Path) -> None:
    with lock.locked(["runc-web"], "one"):
        assert directory.stat().st_mode & 0o777 == 0o700
        assert (directory / "runc-web").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "name", ["web", "../../etc/passwd", "a/b", "..", "\0", "ä" * 300, "x" * 5000, ""]
)
def test_any_name_is_one_file_of_its_own(directory: Path, name: str) -> None:
    key = lock.name_key("runc", name)
    with lock.locked([key], "one"):
        assert os.listdir(directory) == [key]
    assert len({lock.name_key("runc", other) for other in (name, name + "x", name + "/")}) == 3
    assert lock.name_key("crun", name) != key


@pytest.fixture
def process() -> Iterator[int]:
    child = subprocess.Popen(["sleep", "100"])
    yield child.pid
    child.kill()
    child.wait()


def test_a_process_is_told_from_others_by_number_and_start(process: int) -> None:
    assert lock.process_key(process) == lock.process_key(process)
    assert lock.process_key(process).startswith(f"process-{process}-")
    assert lock.process_key(process) != lock.process_key(os.getpid())
    with pytest.raises(OSError, match="No such file"):
        lock.process_key(1 << 30)


def test_the_key_of_a_process_does_not_depend_on_its_name() -> None:
    call = (
        "import ctypes; ctypes.CDLL(None).prctl(15, b'\\xff) Z 1 1 (', 0, 0, 0); "
        "print(flush=True); input()"
    )
    argv = [sys.executable, "-c", call]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        before = lock.process_key(child.pid)
        assert child.stdout is not None
        child.stdout.readline()
        assert lock.process_key(child.pid) == before
        child.kill()
