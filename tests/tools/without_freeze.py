"""Run the tool, and give up when it would freeze the container: it can be moved on the spot again.

    python3 -m tests.tools.without_freeze WORD...

The words are those of `migrate`, which ends as with `--on-no-converge abort`.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from migrate.cli.move import main as migrate
from migrate.decisions import convergence
from migrate.decisions.convergence import Decision, History, Policy, Verdict
from migrate.phases import precopy


def main() -> int:
    """Run the tool, whose decision to freeze is turned round, and return its exit code."""

    def without_freeze(history: History, policy: Policy) -> Decision:
        found = convergence.decide(history, policy)
        if found.verdict is Verdict.FREEZE:
            return replace(found, verdict=Verdict.GIVE_UP)
        return found

    precopy.decide = without_freeze  # type: ignore[attr-defined]
    return migrate(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
