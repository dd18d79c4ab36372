"""Tests of migrate/cli/progress.py: what users see of a migration while it goes on."""

from __future__ import annotations

import io

import pytest

from migrate.cli import progress
from migrate.decisions.state import State
from tests.unit.helpers.events import CALLS
from tests.unit.migrate.cli.terminal import run_in_terminal


def test_in_a_pipe_states_and_notes_are_lines() -> None:
    out = io.StringIO()
    with progress.observer_for(out) as observer:
        for name, arguments in CALLS.items():
            getattr(observer, name)(*arguments)
    assert out.getvalue().splitlines() == ["migrate: frozen", "migrate: a note"]


def test_a_terminal_shows_notes_as_they_are() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    with progress.observer_for(out) as observer:
        for name, arguments in CALLS.items():
            getattr(observer, name)(*arguments)
        observer.note("[bold]as it is[/bold]")
    assert "a note" in out.getvalue()
    assert "[bold]as it is[/bold]" in out.getvalue()


class Closed(io.StringIO):
    """A stream whose reader has left."""

    def __init__(self, *, tty: bool) -> None:
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("tty", [False, True])
def test_a_reader_that_left_ends_no_move(tty: bool) -> None:
    with progress.observer_for(Closed(tty=tty)) as observer:
        observer.state(State.KILLED)
        observer.note("a note")
        observer.sent(1, 2)


def test_the_live_line_tells_what_goes_on() -> None:
    seen = run_in_terminal(terminal=True)
    assert 0 < seen.index(b"prepare") < seen.index(b"armed")
