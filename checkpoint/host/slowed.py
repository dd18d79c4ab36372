"""A container that a migration has slowed down, and what gives the container its speed back."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from checkpoint.host.identity import PathRecord
from checkpoint.schema import Length, Pattern
from checkpoint.undo import Made

FileName = Annotated[str, Pattern(r"cpu\.(max|cfs_quota_us|cfs_period_us)")]


class SlowedDown(Made):
    """The limit of a cpu cgroup, which is about to be changed.

    `before` has the content of each file of the limit (cpu_limit.py). The kernel refuses a period
    that breaks a parent's limit together with the present quota, so the quota is lifted first.
    """

    on_disk = False

    cgroup: PathRecord
    before: Mapping[FileName, Annotated[str, Length(100)]]

    def __str__(self) -> str:
        return f"cpu limit of {self.cgroup.path}"

    def remove(self) -> None:
        """Set the limit as it was before. Files that cannot be written are ignored.

        The files are gone if the container is.
        """
        if not self.cgroup.is_same():
            return
        directory = Path(self.cgroup.path)
        with contextlib.suppress(OSError):
            if "cpu.cfs_quota_us" in self.before:
                (directory / "cpu.cfs_quota_us").write_text("-1")
        for name, content in sorted(self.before.items()):
            with contextlib.suppress(OSError):
                (directory / name).write_text(content)
