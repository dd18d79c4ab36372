"""Tests of migrate/observer.py: an observer is told everything, and fails no migration."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable

import pytest

from migrate import errors
from migrate import observer as events
from migrate.cli import progress
from tests.unit.helpers.events import CALLS


def test_every_event_of_an_observer_is_among_the_calls() -> None:
    assert set(CALLS) == {name for name in vars(events.Observer) if not name.startswith("_")}


class Failing:
    """An observer of which every method fails."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        def fail(*_: object) -> None:
            raise self.failure

        return fail

    def __init__(self, failure: Exception) -> None:
        self.failure = failure


def test_an_observer_that_fails_ends_no_migration() -> None:
    for name, arguments in CALLS.items():
        getattr(events.Unfailing(Failing(ValueError("closed"))), name)(*arguments)


def test_an_interruption_while_the_observer_is_told_is_not_lost() -> None:
    with pytest.raises(errors.Interrupted):
        events.Unfailing(Failing(errors.Interrupted(signal.SIGINT))).note("a note")


def test_an_observer_is_told_everything() -> None:
    out = io.StringIO()
    observer = events.Unfailing(progress.Lines(out))
    for name, arguments in CALLS.items():
        getattr(observer, name)(*arguments)
    assert out.getvalue().splitlines() == ["migrate: frozen", "migrate: a note"]
