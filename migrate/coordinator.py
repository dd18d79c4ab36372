"""One move, from the first question to the last clean-up. Read `_go_through` top to bottom."""

from __future__ import annotations

import contextlib
import time

from migrate.config import Options
from migrate.context import Context
from migrate.errors import MigrateError
from migrate.events import Observer, Unfailing
from migrate.phases import commit, freeze, precopy, prepare
from migrate.phases.plan import Connect, planned
from migrate.phases.rollback import rolled_back
from migrate.reach import by_ssh
from migrate.report import Report
from migrate.signals import Signals
from transport.destination import Destination


def move_container(
    report: Report,
    destination: Destination,
    observer: Observer,
    options: Options,
    connect: Connect = by_ssh,
) -> None:
    """Move the container that the (new) report names; fill the report in, however it ends.

    `connect` makes the connection to the target.
    Raises Refused (nothing was changed), RolledBack (the source runs it, as before), ContainerEnded (it ended by
    itself), Undecided (the target holds it), ResumeFailed, or LeftBehind (the target runs it). A Refused or RolledBack
    leaves no trace on the target.
    """
    started_ns = time.monotonic_ns()
    try:
        with Signals() as signals, contextlib.ExitStack() as stack:
            with signals.heard():
                move = stack.enter_context(
                    planned(report, destination, Unfailing(observer), options, connect)
                )
            try:
                _go_through(move, signals)
            finally:
                report.outcome = move.state.value
    except MigrateError as error:
        report.enter(error)
        raise
    finally:
        report.total_us = (time.monotonic_ns() - started_ns) // 1000


def _go_through(move: Context, signals: Signals) -> None:
    try:
        with signals.heard():
            prepare.prepare(move)
            prepare.arm_source(move)
            copying = precopy.pre_copy(move)
            prepare.arm_target(move)
            precopy.catch_up(move, copying)
            freeze.freeze(move, copying)
            freeze.transfer(move, copying)
            freeze.restore(move, copying)
        commit.let_go(move)
    except BaseException as error:
        raise rolled_back(move, error) from error
    try:
        commit.commit(
            move
        )  # the point of no return: the source is killed, then the target gets its GO
    except BaseException as error:
        raise commit.stranded(move, error) from error
    commit.clean_up(move)
