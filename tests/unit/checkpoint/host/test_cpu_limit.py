"""Tests of checkpoint/host/cpu_limit.py, on files for a cgroup's and in a real cgroup."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.errors import CgroupUnavailable
from checkpoint.host import cgroups, cpu_limit
from checkpoint.host.cpu_limit import LEAST_QUOTA_US, PERIOD_US, CpuLimit
from tests.rig import until
from tests.unit.helpers.obedient import Child

ROOT = Path("/sys/fs/cgroup")
V1, V2 = ("cpu.cfs_quota_us", "cpu.cfs_period_us"), ("cpu.max",)


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cgroup of every process, of the version of which a test writes files."""
    monkeypatch.setattr(cgroups, "directories", lambda pid, controller: iter([tmp_path]))
    monkeypatch.setattr(cpu_limit, "used_cpus", lambda init: 1.5)
    return tmp_path


def content(directory: Path) -> list[str]:
    names = V1 if (directory / V1[0]).exists() else V2
    return [(directory / name).read_text() for name in names]


def write(directory: Path, *texts: str) -> None:
    for name, text in zip(V1 if len(texts) == 2 else V2, texts, strict=True):
        (directory / name).write_text(text)


@pytest.mark.parametrize(
    ("before", "half", "least"),
    [
        (("max 100000\n",), [f"75000 {PERIOD_US}"], [f"{LEAST_QUOTA_US} {PERIOD_US}"]),
        (("-1\n", "50000\n"), ["75000", str(PERIOD_US)], [str(LEAST_QUOTA_US), str(PERIOD_US)]),
    ],
)
def test_the_limit_is_a_share_of_the_use_before(
    cgroup: Path, before: tuple[str, ...], half: list[str], least: list[str]
) -> None:
    write(cgroup, *before)
    limit = CpuLimit(1)
    limit.to(0.5)
    assert content(cgroup) == half
    limit.to(0.0001)  # of what it used before the first
    assert content(cgroup) == least
    limit.before.remove()
    assert content(cgroup) == list(before)


def test_the_use_before_the_first_limit_is_measured_once(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = iter([2.0])
    monkeypatch.setattr(cpu_limit, "used_cpus", lambda init: next(used))
    write(cgroup, "max 100000\n")
    limit = CpuLimit(1)
    for share in (0.5, 0.25):
        limit.to(share)
    assert content(cgroup) == [f"50000 {PERIOD_US}"]


@pytest.mark.parametrize("before", [("max 100000\n",), ("-1\n", "50000\n")])
def test_a_container_that_is_gone_needs_no_speed(cgroup: Path, before: tuple[str, ...]) -> None:
    write(cgroup, *before)
    limit = CpuLimit(1)
    for path in cgroup.iterdir():
        path.unlink()
        path.mkdir()  # cannot be written, even by root
    limit.before.remove()


def test_a_process_without_a_cgroup_of_its_own_is_not_limited(cgroup: Path) -> None:
    with pytest.raises(CgroupUnavailable, match="process 7 has no cpu cgroup of its own"):
        CpuLimit(7)


@contextlib.contextmanager
def real_cgroup(pid: int) -> Iterator[Path]:
    """Yield a cpu cgroup with a process in it, of v1 where that is there."""
    parent = next(path for path in (ROOT / "cpu", ROOT) if (path / "cgroup.procs").exists())
    if (parent / "cgroup.subtree_control").exists():
        (parent / "cgroup.subtree_control").write_text("+cpu")
    path = parent / f"test-cpu-limit-{os.getpid()}"
    path.mkdir()
    try:
        (path / "cgroup.procs").write_text(str(pid))
        yield path
    finally:
        (parent / "cgroup.procs").write_text(str(pid))
        until(lambda: not (path / "cgroup.procs").read_text(), "the cgroup to be empty")
        path.rmdir()


def test_the_kernel_takes_the_limit_of_a_real_cgroup(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_limit, "used_cpus", lambda init: 0.5)
    with real_cgroup(child.pid) as path:
        before = content(path)
        limit = CpuLimit(child.pid)
        limit.to(0.1)
        assert content(path)[0].split()[0] == "5000"
        limit.before.remove()
        assert content(path) == before


BUSY = "import os\nif not os.fork():\n while True: pass\nprint(1, flush=True)\nwhile True: pass"


def test_the_use_of_all_processes_of_a_container_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine with other work, two busy processes use up to two processors."""
    monkeypatch.setattr(cpu_limit, "MEASURE_S", 0.3)
    inside = ["unshare", "--pid", "--fork", "--kill-child"]
    argv = [*inside, sys.executable, "-IS", "-c", BUSY]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        init = int(children.split()[0])
        both = cpu_limit.cpu_seconds(init)
        used = cpu_limit.used_cpus(init)
        assert 0 < used < 2.5
        assert cpu_limit.cpu_seconds(init) > both
        process.kill()
