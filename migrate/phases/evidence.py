"""Keeping the logs of a failed migration, before they go with the images (migrate/logs.py)."""

from __future__ import annotations

from checkpoint.errors import reason
from checkpoint.host.ram_directory import directory_of
from migrate import logs
from migrate.migration import Migration
from migrate.wire import protocol


def keep_logs(migration: Migration) -> None:
    """Keep the logs of both hosts on the source, and enter their directory into the report.

    Failures are noted and not raised: a migration that failed has more to do.
    """
    try:
        found = logs.gather(directory_of(migration.migration_id))
        if kept := logs.keep(migration.migration_id, "source", found):
            migration.report.log_directory = str(kept)
    except Exception as error:  # noqa: BLE001
        migration.note(f"the source's logs could not be kept: {reason(error)}")
    try:
        answer = migration.target.agent.request(
            protocol.Logs(), timeout_s=migration.options.limits.ask_s
        )
        if kept := logs.keep(migration.migration_id, "target", _split(answer)):
            migration.report.log_directory = str(kept)
    except Exception as error:  # noqa: BLE001
        migration.note(f"the target's logs could not be had: {reason(error)}")


def _split(found: protocol.LogsFound) -> list[logs.Log]:
    """Return the logs of an answer, whose payload is their contents joined."""
    data, result = memoryview(found.payload), []
    for name, size in found.files:
        result.append((name, bytes(data[:size])))
        data = data[size:]
    return result
