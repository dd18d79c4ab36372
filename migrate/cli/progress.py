"""The display of a migration's progress: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import TextIO, cast

from rich.console import Console

from migrate.cli.console import one_line
from migrate.decisions.state import State
from migrate.observer import Observer
from migrate.text import size


class Lenient(io.TextIOBase):
    """A stream that ignores write errors: no migration ends because its reader has left."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        # ValueError: the stream is closed, or cannot encode the text.
        with contextlib.suppress(OSError, ValueError):
            self._out.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._out.flush()

    def isatty(self) -> bool:
        return self._out.isatty()

    def fileno(self) -> int:
        return self._out.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._out.encoding


class Silent:
    """An observer that prints nothing."""

    def sent(self, total_bytes: int, expected_bytes: int) -> None: ...

    def state(self, state: State) -> None: ...

    def phase(self, name: str) -> None: ...

    def note(self, text: str) -> None: ...


class Lines(Silent):
    """An observer that prints a plain line for each state and each note."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def state(self, state: State) -> None:
        print(f"migrate: {state.value}", file=self._out, flush=True)

    def note(self, text: str) -> None:
        print(f"migrate: {one_line(text)}", file=self._out, flush=True)


class Live(Lines):
    """An observer with a status line that changes in place; notes scroll above it."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._console = Console(file=out)
        self._status = self._console.status("planning")

    def __enter__(self) -> Live:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def state(self, state: State) -> None:
        self._status.update(state.value)

    def phase(self, name: str) -> None:
        self._status.update(name)

    def sent(self, total_bytes: int, expected_bytes: int) -> None:
        self._status.update(f"copying memory: {size(total_bytes)} sent of {size(expected_bytes)}")

    def note(self, text: str) -> None:
        self._console.print(one_line(text), highlight=False, markup=False)


@contextlib.contextmanager
def observer_for(out: TextIO, *, logged: bool = False) -> Iterator[Observer]:
    """Yield the observer that suits `out`: a live display on a terminal, plain lines elsewhere.

    If the program's log is printed (`logged`), it has all that an observer hears, and the observer
    prints nothing.
    """
    lenient = cast(TextIO, Lenient(out))
    if logged:
        yield Silent()
    elif out.isatty():
        with Live(lenient) as live:
            yield live
    else:
        yield Lines(lenient)
