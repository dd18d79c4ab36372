"""The table of faults, with the end that each must come to."""

from __future__ import annotations

from tests.unit.story import rows_between, rows_hosts
from tests.unit.story.row import Row

MAKERS = (
    rows_between.answers,
    rows_between.lost_hosts,
    rows_between.interruptions,
    rows_between.streams,
    rows_hosts.engines,
    rows_hosts.interrupted_engines,
    rows_hosts.doubles,
    rows_hosts.ends,
    rows_hosts.dumps,
    rows_hosts.restores,
    rows_hosts.connections,
    rows_hosts.hosts,
)


def rows() -> list[Row]:
    """Return every row, in the order of a migration."""
    return [row for make in MAKERS for row in make()]
