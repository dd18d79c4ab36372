"""The programs `migrate` and `migratectl`. Until one of them is loaded, which takes a moment, Ctrl-C simply ends it."""

from __future__ import annotations

import signal
from typing import Any

_usual: Any = signal.getsignal(signal.SIGINT)


def _end_at_ctrl_c(handler: Any) -> None:
    """Have the kernel end the program, or `handler` be called. Nothing is done where Ctrl-C was ignored before."""
    if _usual is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def migrate() -> int:
    """`migrate`. Returns the exit code."""
    from migrate.cli.move import main

    _end_at_ctrl_c(_usual)
    return main()


def migratectl() -> int:
    """`migratectl`. Returns the exit code."""
    from migrate.cli.ctl import main

    _end_at_ctrl_c(_usual)
    return main()


_end_at_ctrl_c(signal.SIG_DFL)
