"""One move, from the first question to the last clean-up. Read `_go_through` top to bottom."""

from __future__ import annotations

import time

from checkpoint.errors import CheckpointError
from migrate.agent.client import AgentFailed
from migrate.config import Options
from migrate.context import Context
from migrate.errors import MigrateError, RolledBack
from migrate.events import Observer
from migrate.phases import commit, freeze, precopy, prepare
from migrate.phases.plan import Connect, by_ssh, planned
from migrate.phases.rollback import roll_back
from migrate.report import Report
from migrate.signals import Signals
from transport.destination import Destination


def move_container(
    report: Report, destination: Destination, observer: Observer, options: Options, connect: Connect = by_ssh
) -> None:
    """Move the container that the (new) report names; fill the report in, however it ends.

    `connect` makes the connection to the target.
    Raises Refused (nothing was changed), RolledBack (the source runs it, as before), Undecided (the
    target holds it), ResumeFailed, or LeftBehind (the target runs it). A Refused or RolledBack leaves
    no trace on the target.
    """
    started_ns = time.monotonic_ns()
    try:
        with Signals() as signals, planned(report, destination, observer, options, connect) as move:
            try:
                _go_through(move, signals)
            finally:
                report.outcome = move.state.value
    except MigrateError as error:
        report.error_kind, report.error = type(error).__name__, str(error)
        raise
    finally:
        report.total_us = (time.monotonic_ns() - started_ns) // 1000


def _go_through(move: Context, signals: Signals) -> None:
    try:
        prepare.prepare(move)
        prepare.arm_source(move)
        copying = precopy.pre_copy(move)
        prepare.arm_target(move)
        precopy.catch_up(move, copying)
        freeze.freeze(move, copying)
        freeze.transfer(move, copying)
        freeze.restore(move, copying)
    except BaseException as error:
        with signals.shielded():
            raise _rolled_back(error, roll_back(move)) from error
    with signals.shielded():
        try:
            commit.commit(move)
        except MigrateError:
            commit.leave_source_if_possible(move)
            raise
        commit.clean_up(move)


def _rolled_back(error: BaseException, left: list[str]) -> MigrateError:
    """What a failure before the kill is told as."""
    if isinstance(error, RolledBack):  # interrupted, or not converging
        return error
    advice = "; ".join(left) or "see the reason above, then try again"
    if isinstance(error, AgentFailed):
        return RolledBack(f"the target failed: {error}", advice)
    if isinstance(error, CheckpointError):
        return RolledBack(f"the source failed: {error}", advice)
    return RolledBack(f"the move failed: {error or type(error).__name__}", advice)
