"""Tests of checkpoint/host/cgroups.py: limits as OCI resources, and cgroups that are removed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkpoint.host import cgroups, proc
from checkpoint.host.cgroups import Hierarchies, directories, enter, in_one_cgroup
from tests.unit.helpers.obedient import Child

PID = 4321


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory that holds one for each v1 hierarchy of a test, and `unified` for v2."""

    def directories(pid: int, controller: str) -> Iterator[Path]:
        assert pid == PID
        if (directory := tmp_path / (controller or "unified")).is_dir():
            yield directory

    monkeypatch.setattr(cgroups, "directories", directories)
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {}),
        ({"memory/memory.limit_in_bytes": "1048576"}, {"memory": {"limit": 1 << 20}}),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, {}),
        (
            {
                "memory/memory.soft_limit_in_bytes": "4096",
                "memory/memory.memsw.limit_in_bytes": "8192",
            },
            {"memory": {"reservation": 4096, "swap": 8192}},
        ),
        (
            {
                "cpu/cpu.shares": "512",
                "cpu/cpu.cfs_quota_us": "50000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            {"cpu": {"shares": 512, "quota": 50_000, "period": 100_000}},
        ),
        ({"cpu/cpu.cfs_quota_us": "-1"}, {}),
        (
            {"cpuset/cpuset.cpus": "0-1,3", "cpuset/cpuset.mems": "0"},
            {"cpu": {"cpus": "0-1,3", "mems": "0"}},
        ),
        ({"cpuset/cpuset.cpus": "", "cpuset/cpuset.mems": ""}, {}),
        ({"pids/pids.max": "100"}, {"pids": {"limit": 100}}),
        ({"pids/pids.max": "max"}, {}),
        ({"cpu/cpu.shares": "2", "cpuset/cpuset.cpus": "1"}, {"cpu": {"shares": 2, "cpus": "1"}}),
        (
            {
                "cpu/cpu.stat": "7",
                "memory/memory.swappiness": "60",
                "memory/memory.usage_in_bytes": "1",
            },
            {},
        ),
    ],
)
def test_limits_of_v1_are_given_as_oci_resources(
    root: Path, files: dict[str, str], expected: dict[str, Any]
) -> None:
    write(root, files)
    assert cgroups.limits(PID) == expected


@pytest.mark.parametrize(
    ("file", "unlimited", "limit"),
    [
        ("memory.max", "max", "1048576"),
        ("memory.low", "0", "4096"),
        ("memory.swap.max", "max", "0"),
        ("cpu.weight", "100", "79"),
        ("cpu.max", "max 100000", "50000 100000"),
        ("cpuset.cpus", "", "0-1"),
        ("cpuset.mems", "", "0"),
        ("pids.max", "max", "100"),
    ],
)
def test_limits_of_v2_are_given_if_they_are_set(
    root: Path, file: str, unlimited: str, limit: str
) -> None:
    write(root, {f"unified/{file}": unlimited, "unified/memory.current": "5"})
    assert cgroups.limits(PID) == {}
    write(root, {f"unified/{file}": limit})
    assert cgroups.limits(PID) == {"unified": {file: limit}}


def test_limits_of_both_versions_are_given_at_once(root: Path) -> None:
    write(root, {"pids/pids.max": "9", "unified/memory.max": "4096", "unified/cpu.weight": "100"})
    assert cgroups.limits(PID) == {"pids": {"limit": 9}, "unified": {"memory.max": "4096"}}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("memory.limit_in_bytes", "0", 0),
        ("memory.limit_in_bytes", str(cgroups.V1_UNLIMITED - 4096), cgroups.V1_UNLIMITED - 4096),
        ("memory.limit_in_bytes", str(cgroups.V1_UNLIMITED), None),
        ("memory.limit_in_bytes", "many", None),
        ("cpuset.cpus", "0", "0"),
    ],
)
def test_a_v1_file_without_a_limit_gives_none(
    tmp_path: Path, name: str, text: str, expected: int | str | None
) -> None:
    file = tmp_path / name
    assert cgroups.v1_limit(file) is None
    file.write_text(f"{text}\n")
    assert cgroups.v1_limit(file) == expected


@pytest.fixture
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory that stands for the only hierarchy."""
    mount = proc.Mount(1, "0:1", "/", str(tmp_path), (), "cgroup2", "rw")
    monkeypatch.setattr(proc, "mounts", lambda _: [mount])
    return tmp_path


def test_cgroups_that_came_into_being_are_removed(hierarchy: Path) -> None:
    made = cgroups.Hierarchies("/web")
    made.look()
    (hierarchy / "web/deep").mkdir(parents=True)
    made.made().remove()
    assert not (hierarchy / "web").exists()


@pytest.mark.parametrize("when", ["before", "another"])
def test_cgroups_that_are_not_the_containers_stay(hierarchy: Path, when: str) -> None:
    made = cgroups.Hierarchies("/web")
    if when == "before":
        (hierarchy / "web/deep").mkdir(parents=True)
    made.look()
    (hierarchy / "web/deep").mkdir(parents=True, exist_ok=True)
    new = made.made()
    if when == "another":
        (hierarchy / "web").rename(hierarchy / "old")
        (hierarchy / "web/deep").mkdir(parents=True)
    new.remove()
    assert (hierarchy / "web/deep").exists()


@pytest.mark.parametrize("path", ["", "/", "/../x", "a/../../b"])
def test_no_directory_outside_the_hierarchies_is_removed(hierarchy: Path, path: str) -> None:
    made = cgroups.Hierarchies(path)
    made.look()
    made.made().remove()
    assert hierarchy.exists()


Place = Callable[[dict[str, str]], None]


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of all hierarchies: cpu and cpuacct in one, pids twice, and v2."""
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
    """Return a function that puts every process into such cgroups, by controllers."""

    def place(paths: dict[str, str]) -> None:
        monkeypatch.setattr(proc, "cgroups", lambda pid: iter(paths.items()))

    return place


def make(mounted: Path, *names: str) -> None:
    for name in names:
        (mounted / name).mkdir(parents=True)


def names(mounted: Path, found: Iterator[Path]) -> list[str]:
    return [str(path.relative_to(mounted)) for path in found]


def test_the_directories_of_a_process_are_found_by_controller(mounted: Path, placed: Place) -> None:
    make(mounted, "cpu/box", "pids/box", "again/box", "unified/slice/box")
    placed({"cpu,cpuacct": "/box", "pids": "/box", "": "/slice/box"})
    assert names(mounted, directories(1, "cpuacct")) == ["cpu/box"]
    assert names(mounted, directories(1, "pids")) == ["pids/box", "again/box"]
    assert names(mounted, directories(1, "")) == ["unified/slice/box"]
    assert names(mounted, directories(1, "memory")) == []


def test_the_root_cgroup_is_nobodys_own(mounted: Path, placed: Place) -> None:
    placed({"cpu,cpuacct": "/", "": "/gone"})
    assert names(mounted, directories(1, "cpu")) == []
    assert names(mounted, directories(1, "")) == []


@pytest.mark.parametrize(
    ("controller", "entered"),
    [
        ("", ["again/box", "pids/box", "unified/box"]),
        ("pids", ["again/box", "pids/box"]),
        ("cpu", []),
    ],
)
def test_a_process_is_moved(
    mounted: Path, placed: Place, controller: str, entered: list[str]
) -> None:
    """A process in that cgroup already, or a hierarchy without the cgroup, is passed over."""
    make(mounted, "cpu/box", "pids/box", "again/box", "unified/box")
    placed({"cpu,cpuacct": "/box", "pids": "/", "": "/elsewhere", "memory": "/"})
    enter(7, "/box", controller)
    found = {path: path.read_text() for path in mounted.rglob("cgroup.procs")}
    assert sorted(str(path.parent.relative_to(mounted)) for path in found) == entered
    assert set(found.values()) <= {"7"}


def test_cgroups_that_a_restore_has_made_are_removed(mounted: Path) -> None:
    """Another owner has a cgroup that was there before, or has its name again."""
    make(mounted, "cpu/box")
    hierarchies = Hierarchies("/box")
    hierarchies.look()
    make(mounted, "pids/box/inner", "again/box", "unified/box")
    made = hierarchies.made()
    (mounted / "again/box").rmdir()
    make(mounted, "again/box")
    (mounted / "unified/box/cgroup.procs").write_text("7")  # a process is in it
    made.remove()
    left = {str(path.relative_to(mounted)) for path in mounted.glob("*/box")}
    assert left == {"cpu/box", "again/box", "unified/box"}
    made.remove()  # once more is no error


@pytest.mark.parametrize("path", ["", "/", "/../box", "box/../.."])
def test_a_path_that_leads_to_no_cgroup_of_its_own_removes_nothing(
    mounted: Path, path: str
) -> None:
    make(mounted, "cpu/box")
    hierarchies = Hierarchies(path)
    hierarchies.made().remove()
    assert (mounted / "cpu/box").exists()


def test_processes_in_one_cgroup_are_told_from_others(child: Child) -> None:
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
