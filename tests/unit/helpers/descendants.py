"""The processes that a test has started, without those that earlier tests left to end."""

from __future__ import annotations

import contextlib
import os
from collections import Counter

from checkpoint.host import proc
from checkpoint.host.processes import tree_of


class Descendants:
    """The descendants of this process, as they were when the object was made."""

    def __init__(self) -> None:
        self._before = set(tree_of(os.getpid()))

    def new(self) -> Counter[str]:
        """Return how many descendants of each name have come since, and have not ended."""
        names: Counter[str] = Counter()
        for pid in tree_of(os.getpid()):
            if pid not in self._before:
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    names[proc.command_name(pid)] += 1
        return names
