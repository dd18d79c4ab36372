"""Keep what tells why a move failed, before it goes with the images: both hosts' logs (migrate/logs.py)."""

from __future__ import annotations

from migrate import logs, protocol
from migrate.context import Context


def keep_logs(move: Context) -> None:
    """Keep the logs of both hosts; the report says where. Nothing is raised: a move that failed has more to do."""
    try:
        found = (
            logs.gather(move.directory) if move.directory.is_absolute() else []
        )  # it may not be there yet
        if kept := logs.keep(move.migration_id, "source", found):
            move.report.log_directory = str(kept)
    except Exception as error:  # noqa: BLE001
        move.note(f"the source's logs could not be kept: {error or type(error).__name__}")
    try:
        answer = move.agent.request(protocol.Logs(), timeout_s=move.options.limits.ask_s)
        if kept := logs.keep(move.migration_id, "target", _split(answer)):
            move.report.log_directory = str(kept)
    except Exception as error:  # noqa: BLE001
        move.note(f"the target's logs could not be had: {error or type(error).__name__}")


def _split(found: protocol.LogsFound) -> list[logs.Log]:
    """Return the logs in an answer, whose payload is their contents joined."""
    data, result = memoryview(found.payload), []
    for name, size in found.files:
        result.append((name, bytes(data[:size])))
        data = data[size:]
    return result
