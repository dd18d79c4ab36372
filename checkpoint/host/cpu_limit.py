"""The quota of a container's cpu cgroup, by which it is slowed down and gets its speed back.

Kernel: Documentation/scheduler/sched-bwc.rst (v1: cpu.cfs_quota_us, cpu.cfs_period_us) and
Documentation/admin-guide/cgroup-v2.rst (cpu.max). The module works on the source only, because it
uses psutil, which the target need not have.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil

from checkpoint.errors import CgroupUnavailable
from checkpoint.host import cgroups
from checkpoint.host.identity import PathRecord
from checkpoint.host.processes import in_pid_namespace_of
from checkpoint.host.slowed import SlowedDown

PERIOD_US = 100_000
#: The kernel accepts no quota below this.
LEAST_QUOTA_US = 1_000
#: The time over which the use of processors is measured: the kernel counts it in ticks of 10 ms.
MEASURE_S = 1.0


class CpuLimit:
    """The cpu limit of a container.

    `to` may be called repeatedly. `before.remove` undoes all calls.
    """

    def __init__(self, init: int) -> None:
        """Read the present limit of the container whose init is `init`.

        Raises CgroupUnavailable when the container has no cpu cgroup of its own, and OSError.
        """
        self._init = init
        self._files = _files(init)
        self.before = SlowedDown(
            cgroup=PathRecord.of(self._files[0].parent),
            before={path.name: path.read_text() for path in self._files},
        )
        self._full_us = 0.0

    def to(self, share: float) -> None:
        """Limit the container to a share of the processor time that it used before the first call.

        The share is a fraction of 1. The first call takes MEASURE_S to measure that use. Raises
        OSError.
        """
        if not self._full_us:
            self._full_us = used_cpus(self._init) * PERIOD_US
        quota = max(LEAST_QUOTA_US, int(self._full_us * share))
        if len(self._files) == 1:
            self._files[0].write_text(f"{quota} {PERIOD_US}")
            return
        quota_file, period_file = self._files
        # The kernel refuses a period that breaks a parent's limit together with the old quota.
        quota_file.write_text("-1")
        period_file.write_text(str(PERIOD_US))
        quota_file.write_text(str(quota))


def used_cpus(init: int) -> float:
    """Return how many processors the container uses, measured over MEASURE_S."""
    before, started = cpu_seconds(init), time.monotonic()
    time.sleep(MEASURE_S)
    return max(0.0, (cpu_seconds(init) - before) / (time.monotonic() - started))


def cpu_seconds(init: int) -> float:
    """Return the processor time that a container's processes have used so far, in seconds."""
    total = 0.0
    for pid in in_pid_namespace_of(init):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
    return total


def _files(init: int) -> list[Path]:
    """Return the files of the limit: [cpu.max] or, on v1, [cpu.cfs_quota_us, cpu.cfs_period_us].

    Raises CgroupUnavailable.
    """
    for controller, names in (
        ("cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]),
        ("", ["cpu.max"]),
    ):
        for directory in cgroups.directories(init, controller):
            files = [directory / name for name in names]
            if all(file.exists() for file in files):
                return files
    raise CgroupUnavailable(f"process {init} has no cpu cgroup of its own")
