"""The report of a migration: what happened when, on one clock, and what it cost.

docs/report.md describes the schema; SCHEMA changes with it.
"""

from __future__ import annotations

import platform
import secrets
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from migrate.errors import MigrateError
from migrate.text import duration, size

SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class Interval:
    """One step. `start_us` counts from the start of the migration, on the source's clock."""

    name: str
    start_us: int
    length_us: int


@dataclass(frozen=True, kw_only=True)
class Instant:
    """One instant of the freeze, stamped by CRIU or by this tool; `at_us` counts as in Interval."""

    name: str
    host: str
    at_us: int


@dataclass(frozen=True, kw_only=True)
class Fill:
    """The memory that was brought after the resume.

    `bytes` is how much it was, `faults` how many pages a task had to wait for. The waits are upper
    bounds: the median, the 99th percentile and the longest.
    """

    bytes: int
    faults: int
    wait_median_us: int
    wait_p99_us: int
    wait_max_us: int

    @classmethod
    def of(cls, filled_bytes: int, faults: int, median_us: int, p99_us: int, max_us: int) -> Fill:
        return cls(
            bytes=filled_bytes,
            faults=faults,
            wait_median_us=median_us,
            wait_p99_us=p99_us,
            wait_max_us=max_us,
        )


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The comparison of the frozen container's memory with what the target was about to restore.

    `whole`: all `pages` were to be compared, not only a sample. `compared` is how many were.
    `unreadable` counts the pages of a sample, or the megabytes of pages, that the source could not
    read from outside. `miss_one_in_a_thousand` is the chance that this comparison would not have
    seen one wrong page in a thousand. `source_us` and `target_us` are what each host spent on its
    digests, in parallel with the restore.
    """

    whole: bool
    pages: int
    compared: int
    unreadable: int
    miss_one_in_a_thousand: float
    source_us: int
    target_us: int


@dataclass(kw_only=True)
class Times:
    """The times of a migration. docs/report.md has the meaning of each."""

    started_unix_ns: int = 0
    total_us: int = 0
    downtime_us: int | None = None
    clock_error_us: int | None = None
    predicted_downtime_us: int | None = None
    predicted_parts_us: dict[str, int] = field(default_factory=dict)
    phases: list[Interval] = field(default_factory=list)
    freeze: list[Instant] = field(default_factory=list)


@dataclass(kw_only=True)
class Sent:
    """The container's memory, and all that was sent. docs/report.md has the meaning of each."""

    memory_bytes: int = 0
    rounds: int = 0
    round_bytes: list[int] = field(default_factory=list)
    pages: int = 0
    pages_zero: int = 0
    page_bytes: int = 0
    pages_skipped_parent: int = 0
    bytes_sent: dict[str, int] = field(default_factory=dict)
    frozen_bytes_sent: int = 0
    proof: Proof | None = None
    fill: Fill | None = None


@dataclass(kw_only=True)
class Report:
    """The account of a migration, whose fields are filled in as it goes on.

    `outcome` is "refused", or the migration's last state (migrate/decisions/state.py); "done" is
    success.
    """

    migration_id: str
    container: str
    source: str
    target: str
    mode: str | None = None
    outcome: str = "refused"
    error_kind: str | None = None
    cause_kind: str | None = None
    error: str | None = None
    log_directory: str | None = None
    times: Times = field(default_factory=Times)
    sent: Sent = field(default_factory=Sent)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, container: str, target: str) -> Report:
        """Return the report of a migration that is about to be tried."""
        return cls(
            migration_id=secrets.token_hex(6),
            container=container,
            source=platform.node(),
            target=target,
            times=Times(started_unix_ns=time.time_ns()),
        )

    def add_bytes(self, kind: str, count: int) -> None:
        """Account bytes that went to the target, by their kind in docs/report.md."""
        self.sent.bytes_sent[kind] = self.sent.bytes_sent.get(kind, 0) + count

    def enter(self, error: MigrateError) -> None:
        """Enter the error that ended the migration."""
        self.error_kind, self.error = type(error).__name__, str(error)
        self.cause_kind = error.cause_kind

    def to_json(self) -> dict[str, Any]:
        """Return the versioned form that --json prints: one object, with no parts."""
        fields = asdict(self)
        times, sent = fields.pop("times"), fields.pop("sent")
        return {"schema": SCHEMA, **fields, **times, **sent}


def summary(report: Report) -> list[str]:
    """Return a few lines about the migration for people."""
    lines = [f"{report.container}: {report.source} -> {report.target}: {report.outcome}"]
    times, sent = report.times, report.sent
    if times.downtime_us is not None:
        lines.append(
            f"downtime {duration(times.downtime_us)}"
            f" (clock error up to {duration(times.clock_error_us or 0)}),"
            f" {size(sent.memory_bytes)} of memory, {size(sum(sent.bytes_sent.values()))} sent,"
            f" {size(sent.frozen_bytes_sent)} of it while frozen"
        )
    for phase in times.phases:
        lines.append(f"  {phase.name:<12} {duration(phase.length_us):>9}")
    return lines
