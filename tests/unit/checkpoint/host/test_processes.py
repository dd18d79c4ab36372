"""Tests of checkpoint/host/processes.py, on processes in namespaces of their own."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.host.processes import (
    Init,
    OutsideFile,
    age_s,
    has_ended,
    in_pid_namespace_of,
    open_outside,
    tree_of,
)
from checkpoint.memory.tracking.tracker import virtual_pid

FAMILY = str(Path(__file__).parent / "programs/family.py")
LONE = "import time; print(flush=True)\nwhile True: time.sleep(60)"


@contextlib.contextmanager
def program(*argv: str, pass_fds: tuple[int, ...] = ()) -> Iterator[int]:
    """Yield the pid of a program, once it has written a line."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, pass_fds=pass_fds) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == b"\n"
            yield process.pid
        finally:
            process.kill()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def namespace(*argv: str) -> Iterator[int]:
    """Yield the pid of the init of a new pid namespace."""
    unshare = ("unshare", "--pid", "--fork", "--kill-child", sys.executable, "-IS", *argv)
    with program(*unshare) as outer:
        (init,) = children(outer)
        yield init


def test_all_processes_of_a_namespace_are_listed_init_first() -> None:
    with namespace(FAMILY) as init:
        found = in_pid_namespace_of(init)
        assert found[0] == init
        assert sorted(found) == sorted([init, *children(init)])
        assert len(found) == 3
        assert sorted(map(virtual_pid, found)) == [1, 2, 3]


def test_in_this_namespace_only_descendants_are_listed() -> None:
    with program(sys.executable, "-IS", FAMILY) as init:
        found = in_pid_namespace_of(init)
        assert found[0] == init
        assert sorted(found) == sorted([init, *children(init)])
        assert os.getpid() not in found
        for pid in found[1:]:
            os.kill(pid, 9)


def test_a_containers_processes_are_its_inits_descendants() -> None:
    """A process that `exec` brings in is the child of a process outside, and is not dumped."""
    with namespace(FAMILY) as init:
        enter = ("nsenter", f"--target={init}", "--pid", sys.executable, "-IS", "-c", LONE)
        with program(*enter) as outside:
            (guest,) = children(outside) or (outside,)
            assert guest in in_pid_namespace_of(init)
            assert sorted(tree_of(init)) == sorted([init, *children(init)])
            assert tree_of(init)[0] == init


def test_the_age_of_a_process_is_told() -> None:
    with program(sys.executable, "-IS", "-c", LONE) as pid:
        assert 0 <= age_s(pid) < 30
    with pytest.raises(FileNotFoundError):
        age_s(1 << 22)


def test_a_zombie_has_ended_too() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(process.pid)  # a zombie
    assert has_ended(process.pid)
    assert not has_ended(os.getpid())


def test_a_file_of_another_mount_is_outside(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with open(tmp_path / "file") as file:
        argv = ("unshare", "--mount", sys.executable, "-IS", "-c", LONE)
        with program(*argv, pass_fds=(file.fileno(),)) as pid:
            found = open_outside(pid, [pid])
            expected = OutsideFile(pid=pid, fd=file.fileno(), path=str(tmp_path / "file"))
            assert expected in found
            assert {1} & {one.fd for one in found} == set()  # a pipe is on no mount


def test_a_file_of_its_own_mounts_is_not_outside(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    code = f"file = open({str(tmp_path / 'file')!r}); " + LONE
    with program("unshare", "--mount", sys.executable, "-IS", "-c", code) as pid:
        assert str(tmp_path / "file") not in [one.path for one in open_outside(pid, [pid])]


def test_processes_that_are_gone_have_nothing_open() -> None:
    with program(sys.executable, "-IS", "-c", LONE) as pid:
        pass
    assert open_outside(os.getpid(), [pid]) == []


def test_killing_an_init_kills_all_of_its_namespace() -> None:
    with namespace(FAMILY) as pid:
        others = [os.pidfd_open(one) for one in children(pid)]
        init = Init(pid)
        assert not init.is_dead()
        assert not init.wait_dead(0)
        init.kill()
        assert init.wait_dead(30)
        assert init.is_dead()
        init.kill()
        for pidfd in others:
            assert select.select([pidfd], [], [], 30)[0]
            os.close(pidfd)
        init.close()


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-IS", "-c", LONE], stdout=subprocess.DEVNULL)
    init = Init(child.pid)
    init.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert init.is_dead()
    child.wait()
    assert init.is_dead()
    init.kill()
    init.close()
