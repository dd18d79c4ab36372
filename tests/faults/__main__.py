"""scripts/faults: tries with chance in them, many times. Exit status 1 if anything was wrong."""

from __future__ import annotations

import argparse
import json
import os
import sys

from tests.faults import two_moves
from tests.rig import Rig


def main() -> int:
    """Run every contest on a rig of its own, and print what came of each as a line of JSON."""
    arguments = _parser().parse_args()
    rig = Rig(f"faults-{os.getpid()}")
    rig.up(nodes=two_moves.NODES)
    wrong = False
    try:
        contests = [*((way, True) for way in two_moves.CONTESTS), ("same target", False)]
        for way, connected in contests:
            result = two_moves.run(rig, way, arguments.tries, arguments.seed, connected=connected)
            print(json.dumps(result), flush=True)
            wrong |= bool(result["faults"])
    finally:
        rig.down()
    return int(wrong)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("two-moves", help="two moves of one container at once")
    command.add_argument(
        "--tries", type=int, default=50, help="of each contest (default %(default)s)"
    )
    command.add_argument("--seed", type=int, default=0, help="of the offsets (default %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
