"""Slow a container down by the quota of its cpu cgroup, and give it its speed back.

Kernel: Documentation/scheduler/sched-bwc.rst (v1: cpu.cfs_quota_us, cpu.cfs_period_us) and
Documentation/admin-guide/cgroup-v2.rst (cpu.max). Source host only: uses psutil.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil

from checkpoint.errors import CgroupUnavailable
from checkpoint.host import cgroups
from checkpoint.host.processes import in_pid_namespace_of

PERIOD_US = 100_000
#: The kernel takes no quota below this.
LEAST_QUOTA_US = 1_000
#: Processor times are counted in ticks of 10 ms.
MEASURE_S = 1.0


class CpuLimit:
    """The cpu cgroup of a container. `to` may be called again and again, `restore` once is enough."""

    def __init__(self, init: int) -> None:
        """Raises CgroupUnavailable when the container has no cpu cgroup of its own."""
        self._init = init
        self._files = _files(init)
        self._before = {path: path.read_text() for path in self._files}
        self._full_us = 0.0

    def to(self, share: float) -> None:
        """Leave the container this share of the processor time it used before the first call."""
        if not self._full_us:
            self._full_us = _used_cpus(self._init) * PERIOD_US
        quota = max(LEAST_QUOTA_US, int(self._full_us * share))
        if len(self._files) == 1:
            self._files[0].write_text(f"{quota} {PERIOD_US}")
            return
        quota_file, period_file = self._files
        quota_file.write_text(
            "-1"
        )  # a period that breaks a parent's limit together with the old quota is refused
        period_file.write_text(str(PERIOD_US))
        quota_file.write_text(str(quota))

    def restore(self) -> None:
        """As it was. What is gone by now, with its container, needs nothing."""
        if len(self._files) == 2:
            with contextlib.suppress(OSError):
                self._files[0].write_text("-1")
        for path in reversed(self._files):
            with contextlib.suppress(OSError):
                path.write_text(self._before[path])


def _used_cpus(init: int) -> float:
    """How many processors' time the container uses now."""
    before, started = _cpu_seconds(init), time.monotonic()
    time.sleep(MEASURE_S)
    return max(0.0, (_cpu_seconds(init) - before) / (time.monotonic() - started))


def _cpu_seconds(init: int) -> float:
    total = 0.0
    for pid in in_pid_namespace_of(init):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
    return total


def _files(init: int) -> list[Path]:
    """v2: [cpu.max]. v1: [cpu.cfs_quota_us, cpu.cfs_period_us]."""
    for controller, names in (
        ("cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]),
        ("", ["cpu.max"]),
    ):
        for directory in cgroups.directories(init, controller):
            files = [directory / name for name in names]
            if all(file.exists() for file in files):
                return files
    raise CgroupUnavailable(f"process {init} has no cpu cgroup of its own")
