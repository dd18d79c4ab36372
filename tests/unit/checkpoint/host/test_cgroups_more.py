"""checkpoint/host/cgroups.py: a process's place in the hierarchies, in directories that stand for them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from checkpoint.host import cgroups, proc
from checkpoint.host.cgroups import Hierarchies, directories, enter, in_one_cgroup
from tests.unit.obedient import Child

Place = Callable[[dict[str, str]], None]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where hierarchies are mounted: cpu and cpuacct as one, pids twice, and v2."""
    mounts = [
        ("cgroup", "cpu", "rw,cpu,cpuacct"),
        ("cgroup", "pids", "rw,pids"),
        ("cgroup", "again", "rw,pids"),
        ("cgroup2", "unified", "rw"),
        ("tmpfs", "other", "rw"),
    ]
    for _, name, _ in mounts:
        (tmp_path / name).mkdir()
    found = [
        SimpleNamespace(kind=kind, point=str(tmp_path / name), options=options)
        for kind, name, options in mounts
    ]
    monkeypatch.setattr(proc, "mounts", lambda pid: found)
    return tmp_path


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> Place:
    """Has a process in such cgroups, by controllers."""

    def place(paths: dict[str, str]) -> None:
        monkeypatch.setattr(proc, "cgroups", lambda pid: iter(paths.items()))

    return place


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True)


def names(root: Path, found: Iterator[Path]) -> list[str]:
    return [str(path.relative_to(root)) for path in found]


def test_where_a_process_is(root: Path, placed: Place) -> None:
    make(root, "cpu/box", "pids/box", "again/box", "unified/slice/box")
    placed({"cpu,cpuacct": "/box", "pids": "/box", "": "/slice/box"})
    assert names(root, directories(1, "cpuacct")) == ["cpu/box"]
    assert names(root, directories(1, "pids")) == ["pids/box", "again/box"]
    assert names(root, directories(1, "")) == ["unified/slice/box"]
    assert names(root, directories(1, "memory")) == []


def test_the_root_cgroup_is_nobodys_own(root: Path, placed: Place) -> None:
    placed({"cpu,cpuacct": "/", "": "/gone"})
    assert names(root, directories(1, "cpu")) == []
    assert names(root, directories(1, "")) == []


@pytest.mark.parametrize(
    ("controller", "entered"),
    [
        ("", ["again/box", "pids/box", "unified/box"]),
        ("pids", ["again/box", "pids/box"]),
        ("cpu", []),
    ],
)
def test_a_process_is_moved(root: Path, placed: Place, controller: str, entered: list[str]) -> None:
    """Unless it is there already, or the hierarchy has no such cgroup."""
    make(root, "cpu/box", "pids/box", "again/box", "unified/box")
    placed({"cpu,cpuacct": "/box", "pids": "/", "": "/elsewhere", "memory": "/"})
    enter(7, "/box", controller)
    found = {path: path.read_text() for path in root.rglob("cgroup.procs")}
    assert sorted(str(path.parent.relative_to(root)) for path in found) == entered
    assert set(found.values()) <= {"7"}


def test_cgroups_that_a_restore_has_made_are_removed(root: Path) -> None:
    """Those that were there before are another's, and so is one that has the name again."""
    make(root, "cpu/box")
    hierarchies = Hierarchies("/box")
    hierarchies.look()
    make(root, "pids/box/inner", "again/box", "unified/box")
    hierarchies.claim()
    (root / "again/box").rmdir()
    make(root, "again/box")
    (root / "unified/box/cgroup.procs").write_text("7")  # a process is in it
    hierarchies.remove_claimed()
    left = {str(path.relative_to(root)) for path in root.glob("*/box")}
    assert left == {"cpu/box", "again/box", "unified/box"}
    hierarchies.remove_claimed()  # once more is no error


@pytest.mark.parametrize("path", ["", "/", "/../box", "box/../.."])
def test_a_path_that_is_none(root: Path, path: str) -> None:
    make(root, "cpu/box")
    hierarchies = Hierarchies(path)
    hierarchies.claim()
    hierarchies.remove_claimed()
    assert (root / "cpu/box").exists()


def test_whether_all_are_in_one_cgroup(child: Child) -> None:
    ended = Child()
    ended.end()
    assert in_one_cgroup(child.pid, [child.pid, os.getpid(), ended.pid])
    assert not in_one_cgroup(child.pid, [ended.pid])
    with pytest.raises(FileNotFoundError):
        in_one_cgroup(ended.pid, [child.pid])


def test_a_container_with_a_cgroup_namespace_may_have_more_of_them() -> None:
    argv = ["unshare", "--cgroup", "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not in_one_cgroup(process.pid, [process.pid])
        process.communicate()


def test_both_versions_are_where_the_kernel_has_them() -> None:
    """Of the real kernel: each mount of either kind is a directory with processes in it."""
    for kind in ("cgroup", "cgroup2"):
        for mount in cgroups._mounts(kind, ""):
            assert (mount / "cgroup.procs").exists()
