"""scripts/bench: what this tool does beside what people do without it, measured in the same run.

Every case starts on a rig of its own. Machines are shared and noisy: ratios count, and medians of
several runs.
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

from tests.bench import engines, files, fill, items, moves, rates, soak, timeline
from tests.rig import Rig
from tests.rig.hosts import Hosts

SCHEMA = 2
RUNS = 5

CASES: dict[str, Callable[[Hosts, int], dict[str, Any]]] = {
    "runc-redis-128m": lambda hosts, runs: moves.redis_case(hosts, runs, 128),
    "runc-redis-1g": lambda hosts, runs: moves.redis_case(hosts, runs, 1024, sets_per_second=2000),
    "runc-redis-4g": lambda hosts, runs: moves.redis_case(hosts, runs, 4096, sets_per_second=2000),
    "crun-redis-128m": lambda hosts, runs: engines.engine_case(hosts, runs, "crun"),
    "podman-redis-128m": lambda hosts, runs: engines.engine_case(hosts, runs, "podman"),
    "docker-redis-128m": lambda hosts, runs: engines.engine_case(hosts, runs, "docker"),
    "runc-idle": moves.idle_case,
    "runc-files-50k": files.files_case,
    "timeline": timeline.timeline_case,
    "first-touch": fill.first_touch_case,
    "recovery": fill.recovery_case,
    "items": items.items_case,
    "soak": soak.soak_case,
    "runc-dirty-10": lambda hosts, runs: moves.dirtier_case(hosts, runs, 10),
    "runc-dirty-50": lambda hosts, runs: moves.dirtier_case(hosts, runs, 50),
    "runc-dirty-200": lambda hosts, runs: moves.dirtier_case(hosts, runs, 200),
    "relay": rates.relay_case,
    "tracking-cost": rates.cost_case,
    "bandwidth-limit": rates.limit_case,
}


def main() -> int:
    """Run the cases that were asked for, and write and print the result."""
    arguments = _parser().parse_args()
    cases = []
    for name in arguments.case or [name for name in CASES if name != "soak"]:
        print(f"{name}:", file=sys.stderr)
        rig = Rig(f"bench-{os.getpid()}")
        rig.up()
        try:
            cases.append({"name": name, **CASES[name](Hosts.of(rig), arguments.runs)})
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
        help="only this one (may be repeated); soak, which makes 20 moves a run, must be named",
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
