"""The story of one migration, from the first question to the last clean-up.

`_go_through` has the steps in order; each step is a function of a module in migrate/phases/.
"""

from __future__ import annotations

import contextlib
import time

from migrate.errors import MigrateError
from migrate.migration import Context
from migrate.observer import Observer, Unfailing
from migrate.options import Options
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
    """Migrate the container that `report` names, and fill in the report however the migration ends.

    `report` is fresh from Report.begin. `connect` makes the connection to `destination`, the
    target. The `observer` hears of each step; a failure of the observer ends nothing
    (migrate/observer.py).

    Raises Refused (nothing was changed), RolledBack (the container is on the source, as before),
    ContainerEnded (the container ended on the source before the kill), Undecided (the target holds
    the container, or may run it), ResumeFailed (the target says that it could not resume it) or
    LeftBehind (the target runs the container, and something was not cleaned up). After Refused and
    RolledBack nothing of the migration is left on the target, except for what the error's advice
    names.
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
        # The point of no return: kill the source's init, then send GO to the target.
        commit.commit(move)
    except BaseException as error:
        raise commit.stranded(move, error) from error
    commit.clean_up(move)
