"""Tests of checkpoint/engines/docker/oci_wrapper.py: the cgroups of the container's init."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint.engines.docker import oci_wrapper
from checkpoint.engines.docker.oci_wrapper import (
    cgroups_of,
    enter,
    inherit,
)


def test_cgroups_that_cannot_be_entered_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci_wrapper, "CGROUPS", str(tmp_path))
    (tmp_path / "cgroup.procs").touch()
    assert enter({"": "/", "cpu": "no path"}, make=False) == ""
    assert (tmp_path / "cgroup.procs").read_text() == "0"
    told = f"{tmp_path}/pids/x: No such file or directory"
    assert enter({"pids": "/x", "": "/y"}, make=False) == told
    assert enter({"": "/y"}, make=True) == ""
    assert (tmp_path / "y/cgroup.procs").read_text() == "0"


def test_the_cgroups_of_a_process_are_those_of_the_kernel() -> None:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    assert [f"{name}:{path}" for name, path in cgroups_of("self").items()] == [
        line.split(":", 1)[1] for line in lines
    ]


def test_cgroups_of_both_versions_are_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oci_wrapper, "CGROUPS", str(tmp_path))
    assert enter({"": "/box", "pids": "/box", "name=systemd": "/box"}, make=True) == ""
    entered = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("cgroup.procs"))
    assert entered == ["pids/box/cgroup.procs", "systemd/box/cgroup.procs"], "v2 is not mounted"
    (tmp_path / "cgroup.procs").touch()
    assert enter({"": "/box"}, make=True) == ""
    assert (tmp_path / "box/cgroup.procs").read_text() == "0"


def test_a_new_cpuset_gets_what_its_nearest_parent_has(tmp_path: Path) -> None:
    for directory, cpus in ((".", "0-3\n"), ("a", "\n"), ("a/b", "\n")):
        (tmp_path / directory).mkdir(exist_ok=True)
        (tmp_path / directory / "cpuset.cpus").write_text(cpus)
    inherit(str(tmp_path / "a/b"), "cpuset.cpus")
    assert (tmp_path / "a/cpuset.cpus").read_text() == "0-3\n"
    assert (tmp_path / "a/b/cpuset.cpus").read_text() == "0-3\n"


def test_a_cpuset_that_has_processors_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "cpuset.cpus").write_text("0-3\n")
    (tmp_path / "a/cpuset.cpus").write_text("1\n")
    inherit(str(tmp_path / "a"), "cpuset.cpus")
    assert (tmp_path / "a/cpuset.cpus").read_text() == "1\n"
    inherit(str(tmp_path / "none"), "cpuset.cpus")
