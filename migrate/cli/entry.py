"""The entry points of `migrate` and `migratectl`.

Loading a program takes a moment. Until it is loaded, Ctrl-C simply ends it.
"""

from __future__ import annotations

import signal
from typing import Any

_usual: Any = signal.getsignal(signal.SIGINT)


def _end_at_ctrl_c(handler: Any) -> None:
    """Set what Ctrl-C does: SIG_DFL has the kernel end the program, a handler is called.

    If Ctrl-C was ignored when the program was started, it stays ignored.
    """
    if _usual is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def migrate() -> int:
    """Run `migrate` and return its exit code."""
    from migrate.cli.move import main  # noqa: PLC0415  (a Ctrl-C meanwhile ends this quietly)

    _end_at_ctrl_c(_usual)
    return main()


def migratectl() -> int:
    """Run `migratectl` and return its exit code."""
    from migrate.cli.ctl import main  # noqa: PLC0415

    _end_at_ctrl_c(_usual)
    return main()


_end_at_ctrl_c(signal.SIG_DFL)
