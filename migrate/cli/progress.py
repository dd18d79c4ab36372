"""What a person sees while a move goes on: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console

from migrate.events import Observer
from migrate.state import State


class Lines:
    """Plain lines, one per event."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def sent(self, total_bytes: int, expected_bytes: int) -> None: ...

    def state(self, state: State) -> None:
        self._say(state.value)

    def note(self, text: str) -> None:
        self._say(text)

    def _say(self, text: str) -> None:
        # Whoever read this may have left; a move does not end for that.
        with contextlib.suppress(OSError):
            print(f"migrate: {text}", file=self._out, flush=True)


class Terminal(Console):
    """A console whose reader may leave: rich would end the program for that."""

    def on_broken_pipe(self) -> None: ...


class Live(Lines):
    """A status line that changes in place; notes scroll above it."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._console = Terminal(file=out)
        self._status = self._console.status("planning")

    def __enter__(self) -> Live:
        with contextlib.suppress(OSError):
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._status.stop()

    def state(self, state: State) -> None:
        with contextlib.suppress(OSError):
            self._status.update(state.value)

    def sent(self, total_bytes: int, expected_bytes: int) -> None:
        with contextlib.suppress(OSError):
            self._status.update(f"copying memory: {total_bytes >> 20} MiB sent of {expected_bytes >> 20}")

    def note(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._console.print(text, highlight=False, markup=False)


@contextlib.contextmanager
def observer_for(out: TextIO) -> Iterator[Observer]:
    """The observer that suits where output goes."""
    if out.isatty():
        with Live(out) as live:
            yield live
    else:
        yield Lines(out)
