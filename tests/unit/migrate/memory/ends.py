"""Both ends of a copy of memory, as far as a round needs them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from checkpoint.errors import ProcError
from tests.unit.migrate.memory.carrier import Carrier

#: Errors of a look at a process that is ending.
ERRORS = [ProcError("no line of maps"), OSError(errno.ESRCH, "No such process")]


def ends(pid: int, carrier: Carrier | None = None) -> Any:
    """Return fakes of both ends of a copy, whose pages go to `carrier`."""
    notes: list[str] = []
    progress = SimpleNamespace(note=notes.append, notes=notes, sent=lambda _: None)
    return SimpleNamespace(
        pid=pid,
        processes=dict,
        dump=SimpleNamespace(options=None),
        directory=None,
        criu_version=40201,
        dump_s=20.0,
        pages=carrier or Carrier(),
        progress=progress,
    )


def failing(error: Exception) -> Callable[..., Any]:
    """Return a function that raises an error."""

    def fail(*_: Any) -> Any:
        raise error

    return fail
