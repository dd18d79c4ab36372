"""The descendants of the process of the tests that one test has started."""

from __future__ import annotations

import contextlib
import os
from collections import Counter

from checkpoint.host import proc
from checkpoint.host.processes import tree_of


class Descendants:
    """What this process has started since the object was made.

    Processes of earlier tests that are about to end are not among it.
    """

    def __init__(self) -> None:
        self._before = set(tree_of(os.getpid()))

    def new(self) -> Counter[str]:
        """Return {name of a program: how many new descendants run it}."""
        names: Counter[str] = Counter()
        for pid in tree_of(os.getpid()):
            if pid not in self._before:
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    names[proc.command_name(pid)] += 1
        return names
