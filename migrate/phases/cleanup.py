"""The clean-up on both hosts, once the target runs the container."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from migrate.decisions import causes
from migrate.decisions.state import State
from migrate.errors import LeftBehind
from migrate.migration import Migration
from migrate.phases.arm import Armed
from migrate.report import Fill
from migrate.wire import protocol

#: Memory is filled in faster than that: it is on the target already.
LEAST_FILLED_BYTES_S = 10e6


def clean_up(migration: Migration, armed: Armed, *, by_agent: bool) -> None:
    """Finish on the target, and remove from both hosts all that is not needed any more.

    Without `by_agent`, the agent is gone, and what took its place finishes on the target by itself.
    On the source that is what the container has left, and what only the migration needed. One
    failure keeps nothing else from being removed; LeftBehind is raised at the end.
    """
    failed: list[Exception] = []
    with migration.progress.phase("clean up"):
        with _collected(failed):
            if by_agent and armed.output is not None:  # the engine may have logged something late
                migration.report.add_bytes("output", armed.output.copy())
        # The target's part comes first: clean-up on the source takes processor time, which the
        # resumed container may want if both hosts share processors.
        if by_agent:
            with _collected(failed):
                _finish(migration)
        _leave_source(migration, failed)
    if failed:
        reasons = "; ".join(causes.failure(error) for error in failed)
        left_behind = LeftBehind(migration.target.hostname, reasons)
        raise causes.marked(left_behind, failed[0]) from failed[0]
    migration.advance(State.DONE)


def _finish(migration: Migration) -> None:
    """Have the target fill in all memory and clean up, and enter its figures into the report."""
    least_s = migration.report.sent.memory_bytes / LEAST_FILLED_BYTES_S
    limit_s = migration.options.limits.answer_s + least_s
    finished = migration.target.agent.request(protocol.Finish(), timeout_s=limit_s)
    for name, at_ns in finished.stamps:
        migration.target_instant(name, at_ns)
    migration.report.sent.fill = Fill.of(finished.filled_bytes, *finished.waits)


def _leave_source(migration: Migration, failed: list[Exception]) -> None:
    """Remove the dead container and its network from the source; append errors to `failed`."""
    with _collected(failed):
        migration.dump.bury()
    with _collected(failed):
        migration.tidy.close()
    with _collected(failed):
        migration.undo.settle()


@contextlib.contextmanager
def _collected(failed: list[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001  (reported by LeftBehind)
        failed.append(error)
