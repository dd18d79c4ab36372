"""Run the tool on a node with an agent that was altered before it begins: what the other host may be."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

CHECKOUT = "/opt/migrate"


def migrate(alteration: str, words: Sequence[str]) -> int:
    """`migrate WORDS...`, whose agent runs `alteration` first, Python that may import what tests/ has."""
    sys.path.insert(0, CHECKOUT)
    from migrate.agent import zipapp
    from migrate.cli.move import main

    start = zipapp.RECEIVER.index("from migrate.agent.server import main")
    receiver = f"{zipapp.RECEIVER[:start]}sys.path.append({CHECKOUT!r})\n{alteration}\n{zipapp.RECEIVER[start:]}"
    zipapp.COMMAND = f"exec python3 -BIc {shlex.quote(receiver)}"
    return main(words)
