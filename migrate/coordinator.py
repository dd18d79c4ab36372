"""The story of one migration, from the first question to the last clean-up.

`_go_through` has the steps in order; each step is a function of a module in migrate/phases/.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial

from migrate.decisions.state import SETTLED
from migrate.errors import LostThere, MigrateError, ResumeFailed
from migrate.migration import Migration
from migrate.observer import Observer, Unfailing
from migrate.options import Options
from migrate.phases.arm import arm_source, arm_target
from migrate.phases.cleanup import clean_up
from migrate.phases.commit import arm_kill, kill_source, resume_target, stranded
from migrate.phases.freeze import freeze, transfer
from migrate.phases.plan import planned
from migrate.phases.precopy import catch_up, pre_copy
from migrate.phases.predict import check_last, learn
from migrate.phases.prepare import prepare
from migrate.phases.restore import look_again, restore
from migrate.phases.restore_again import restore_again
from migrate.phases.rollback import rolled_back
from migrate.reach import Connect, by_ssh
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
        with Signals(Unfailing(observer).note) as signals, contextlib.ExitStack() as stack:
            with signals.heard():
                migration = stack.enter_context(
                    planned(report, destination, Unfailing(observer), options, connect)
                )
            with _outcome_kept(migration):
                _go_through(migration, signals)
    except MigrateError as error:
        report.enter(error)
        raise
    finally:
        report.times.total_us = (time.monotonic_ns() - started_ns) // 1000


@contextlib.contextmanager
def _outcome_kept(migration: Migration) -> Iterator[None]:
    """Enter how the block ends into the report, and into the journal if nothing is left to do.

    Otherwise the guardian goes on, unless the target has said that it could not obey, and that it
    may run the container all the same.
    """
    told: str | None = None
    failed_there = False
    try:
        yield
    except MigrateError as error:
        told = str(error)
        failed_there = isinstance(error, ResumeFailed) and not isinstance(error, LostThere)
        raise
    finally:
        migration.report.outcome = migration.state.value
        if migration.journal.account().state in {state.value for state in SETTLED}:
            migration.journal.end(migration.state.value, told)
        elif not failed_there:
            migration.guardian.take_over()


def _go_through(migration: Migration, signals: Signals) -> None:
    try:
        with signals.heard():
            prepared = prepare(migration)
            arm_source(migration, prepared)
            pre_copied = pre_copy(migration, prepared)
            copying = pre_copied.copying
            armed = arm_target(migration, prepared)
            limit_s = check_last(migration, prepared, armed, copying, pre_copied.history)
            catch_up(migration, prepared, copying)
            with signals.bounded(limit_s):
                frozen = freeze(migration, prepared, pre_copied, limit_s)
                transfer(migration, prepared, armed, frozen, copying)
                obeyed = restore(migration, prepared, frozen, copying)
                look_again(migration, frozen)
        arm_kill(migration, armed)
    except BaseException as error:
        raise rolled_back(migration, error) from error
    try:
        with migration.progress.phase("commit"):
            kill_source(migration)  # ---------------- the point of no return ----------------
            again = partial(restore_again, migration, prepared, armed, obeyed)
            by_agent = resume_target(migration, armed, again)
    except BaseException as error:
        raise stranded(migration, error) from error
    clean_up(migration, armed, by_agent=by_agent)
    learn(migration)
