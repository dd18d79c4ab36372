"""scripts/bench: what this tool does beside what people do without it, measured in the same run.

Every case starts on a rig of its own. Machines are shared and noisy: ratios count, and medians of several runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.bench import engines, files, fill, moves, rates, soak, timeline
from tests.rig import Rig

SCHEMA = 2
RUNS = 5

CASES: dict[str, Callable[[Rig, int], dict[str, Any]]] = {
    "runc-redis-128m": lambda rig, runs: moves.redis_case(rig, runs, 128),
    "runc-redis-1g": lambda rig, runs: moves.redis_case(rig, runs, 1024, sets_per_second=2000),
    "runc-redis-4g": lambda rig, runs: moves.redis_case(rig, runs, 4096, sets_per_second=2000),
    "crun-redis-128m": lambda rig, runs: engines.engine_case(rig, runs, "crun"),
    "podman-redis-128m": lambda rig, runs: engines.engine_case(rig, runs, "podman"),
    "docker-redis-128m": lambda rig, runs: engines.engine_case(rig, runs, "docker"),
    "runc-idle": moves.idle_case,
    "runc-files-50k": files.files_case,
    "timeline": timeline.timeline_case,
    "first-touch": fill.first_touch_case,
    "recovery": fill.recovery_case,
    "soak": soak.soak_case,
    "runc-dirty-10": lambda rig, runs: moves.dirtier_case(rig, runs, 10),
    "runc-dirty-50": lambda rig, runs: moves.dirtier_case(rig, runs, 50),
    "runc-dirty-200": lambda rig, runs: moves.dirtier_case(rig, runs, 200),
    "relay": rates.relay_case,
    "tracking-cost": rates.cost_case,
    "bandwidth-limit": rates.limit_case,
}


def main() -> int:
    arguments = _parser().parse_args()
    cases = []
    for name in arguments.case or [name for name in CASES if name != "soak"]:
        print(f"{name}:", file=sys.stderr)
        rig = Rig(f"bench-{os.getpid()}")
        rig.up()
        try:
            cases.append({"name": name, **CASES[name](rig, arguments.runs)})
        finally:
            rig.down()
    machine = {"processors": psutil.cpu_count(), "memory_bytes": psutil.virtual_memory().total}
    result = json.dumps(
        {"schema": SCHEMA, "runs": arguments.runs, "machine": machine, "cases": cases}, indent=2
    )
    arguments.json.write_text(result + "\n")
    print(result)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "--case",
        action="append",
        choices=sorted(CASES),
        help="only this one (may be repeated); soak, which counts its runs in hundreds of moves, runs only when named",
    )
    parser.add_argument(
        "--runs", type=int, default=RUNS, help="of each kind per case (default %(default)s)"
    )
    parser.add_argument(
        "--json", type=Path, required=True, metavar="FILE", help="where the result goes"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
