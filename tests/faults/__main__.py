"""scripts/faults: faults at every step of a move, and two moves at once, many times.

Exit status 1 if anything was wrong: a container lost, doubled, stuck or with wrong memory,
something left behind, or a word of the tool's that was not true.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

from tests.faults import cases, simulation, two_moves
from tests.faults.run import run
from tests.faults.table import table
from tests.rig import Rig


def main() -> int:
    """Run the matrix, or the contests, on rigs of their own."""
    arguments = _parser().parse_args()
    if arguments.what == "simulate":
        return int(_simulate(arguments.count, arguments.seed))
    if arguments.what == "table":
        print(*table(arguments.json), sep="\n")
        return 0
    count = arguments.rigs if arguments.what == "matrix" else 1
    rigs = [Rig(f"faults-{os.getpid()}-{number}") for number in range(count)]
    with contextlib.ExitStack() as stack:
        for rig in rigs:
            stack.callback(rig.down)
            rig.up(nodes=two_moves.NODES if arguments.what == "two-moves" else 2)
        if arguments.what == "two-moves":
            return int(_two_moves(rigs[0], arguments.count, arguments.seed))
        if arguments.case is not None:
            chosen = [cases.matrix()[arguments.case]]
        else:
            chosen = cases.drawn(arguments.seed, arguments.count, tuple(arguments.engine))
        return int(run(rigs, chosen, arguments.json))


def _simulate(count: int, seed: int) -> bool:
    """Run so many simulated schedules, and print those in which the commit rule did not hold."""
    wrong = 0
    for number in range(seed, seed + count):
        try:
            simulation.run(number)
        except simulation.Violation as error:
            wrong += 1
            print(f"schedule {number}: {error}", flush=True)
    print(json.dumps({"schedules": count, "seed": seed, "violations": wrong}))
    return bool(wrong)


def _two_moves(rig: Rig, tries: int, seed: int) -> bool:
    """Run every contest, and print what came of each as a line of JSON."""
    wrong = False
    contests = [*((way, True) for way in two_moves.CONTESTS), ("same target", False)]
    for way, connected in contests:
        result = two_moves.run(rig, way, tries, seed, connected=connected)
        print(json.dumps(result), flush=True)
        wrong |= bool(result["faults"])
    return wrong


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument(
        "what",
        nargs="?",
        choices=("matrix", "simulate", "table", "two-moves"),
        default="matrix",
        help="faults of each process, the link and others at each state of a move (default), the"
        " commit rule in a simulated world, the verdicts in FILE as a table, or two moves of one"
        " container at once",
    )
    parser.add_argument("--count", type=int, default=50, help="of tries (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws the tries (default %(default)s)")
    parser.add_argument("--case", type=int, metavar="K", help="try case K of the matrix alone")
    parser.add_argument(
        "--engine",
        nargs="+",
        choices=cases.ENGINES,
        default=cases.ENGINES,
        help="cases of these engines alone",
    )
    parser.add_argument(
        "--rigs", type=int, default=1, help="that try cases at the same time (default %(default)s)"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="append each verdict to FILE; cases that are in it are not tried again",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
