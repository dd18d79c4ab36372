"""Run the tool on a node, with an agent that was altered before it begins."""

from __future__ import annotations

import sys
from collections.abc import Sequence

CHECKOUT = "/opt/migrate"


def migrate(alteration: str, words: Sequence[str]) -> int:
    """Run `migrate WORDS...`, whose agent first runs `alteration`, and return its exit code.

    `alteration` is Python that may import what tests/ has.
    """
    sys.path.insert(0, CHECKOUT)
    from migrate.agent import programs
    from migrate.cli.move import main

    source = programs.source("bootstrap")
    start = source.index("from migrate.agent.server import main")
    prelude = f"sys.dont_write_bytecode = True\nsys.path.append({CHECKOUT!r})\n{alteration}\n"
    altered = {"bootstrap": source[:start] + prelude + source[start:]}
    read = programs.source
    programs.source = lambda name: altered.get(name) or read(name)  # type: ignore[assignment]
    return main(words)
