"""What a person sees while a move goes on: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import TextIO, cast

from rich.console import Console

from migrate.cli.console import one_line
from migrate.events import Observer
from migrate.state import State


class Lenient(io.TextIOBase):
    """A stream whose reader may leave; a move does not end for that."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        with contextlib.suppress(
            OSError, ValueError
        ):  # ValueError: it was closed, or cannot encode that
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


class Lines:
    """Plain lines, one per event."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def sent(self, total_bytes: int, expected_bytes: int) -> None: ...

    def state(self, state: State) -> None:
        print(f"migrate: {state.value}", file=self._out, flush=True)

    def phase(self, name: str) -> None: ...

    def note(self, text: str) -> None:
        print(f"migrate: {one_line(text)}", file=self._out, flush=True)


class Live(Lines):
    """A status line that changes in place; notes scroll above it."""

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
        self._status.update(
            f"copying memory: {total_bytes >> 20} MiB sent of {expected_bytes >> 20}"
        )

    def note(self, text: str) -> None:
        self._console.print(one_line(text), highlight=False, markup=False)


@contextlib.contextmanager
def observer_for(out: TextIO, *, plain: bool = False) -> Iterator[Observer]:
    """The observer that suits where output goes; `plain`: whatever that is, lines and no display."""
    lenient = cast(TextIO, Lenient(out))
    if out.isatty() and not plain:
        with Live(lenient) as live:
            yield live
    else:
        yield Lines(lenient)
