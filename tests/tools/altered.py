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
    from migrate.agent import zipapp
    from migrate.cli.move import main

    start = zipapp.BOOTSTRAP.index("from migrate.agent.server import main")
    prelude = f"sys.dont_write_bytecode = True\nsys.path.append({CHECKOUT!r})\n{alteration}\n"
    altered = zipapp.command(zipapp.BOOTSTRAP[:start] + prelude + zipapp.BOOTSTRAP[start:])
    zipapp.command = lambda: altered  # type: ignore[misc,assignment]
    return main(words)
