"""scripts/bench: moves by this tool and by the baseline, in turn, and what a client saw of each.

Every case starts on a rig of its own. The client is the 1 ms client of tests/workloads; a move's blackout is its
worst gap between two replies from just before the move until well after it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import baseline
from tests.clients import REDIS_PORT, RedisClient, ask, redis_data
from tests.rig import Container, Rig, until

SCHEMA = 1
ADDRESS = "10.77.0.50"
REDIS = ["redis-server", "--bind", "0.0.0.0", "--save", "", "--protected-mode", "no"]  # noqa: S104 - in the rig
SETTLE_S = 1.0  # a client's retransmissions may come that late
RUNS = 5


@dataclass(kw_only=True)
class Series:
    """What the moves of one case showed."""

    blackout_ms: list[float] = field(default_factory=list)
    baseline_blackout_ms: list[float] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self, name: str) -> dict[str, Any]:
        """One entry of the result's `cases`."""

        def median(key: Callable[[dict[str, Any]], float]) -> int:
            return int(statistics.median(map(key, self.reports)))

        return {
            "name": name,
            "blackout_ms": spread(self.blackout_ms),
            "downtime_ms": spread([report["downtime_us"] / 1000 for report in self.reports]),
            "baseline_blackout_ms": spread(self.baseline_blackout_ms),
            "ratio": round(statistics.median(self.baseline_blackout_ms) / statistics.median(self.blackout_ms), 2),
            "bytes_sent": median(lambda report: sum(report["bytes_sent"].values())),
            "frozen_bytes_sent": median(lambda report: report["frozen_bytes_sent"]),
            "memory_bytes": median(lambda report: report["memory_bytes"]),
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "min": round(min(values), 1),
        "median": round(statistics.median(values), 1),
        "max": round(max(values), 1),
    }


def redis_case(rig: Rig, runs: int, mib: int) -> Series:
    """redis with that much data under the 1 ms client, moved to and fro."""
    alpha, beta = rig.node("alpha"), rig.node("beta")
    here = alpha.start_container("redis", ip=ADDRESS, argv=REDIS)
    until(lambda: ask(rig.switch, ADDRESS, REDIS_PORT, "PING") == "+PONG", "redis to answer")
    redis_data(rig.switch, ADDRESS, "fill", "--mib", str(mib))
    series = Series()
    with RedisClient(rig.switch, ADDRESS) as client:
        for run in range(runs):
            for by_tool in (True, False):
                there = beta if here.node.name == alpha.name else alpha
                client.mark("before")
                if by_tool:
                    done = here.node.run(["migrate", "redis", there.name, "--json"], timeout=300)
                    series.reports.append(json.loads(done.stdout))
                    here = Container(node=there, name="redis", address=ADDRESS)
                else:
                    here = baseline.move(here, there)
                time.sleep(SETTLE_S)
                window = client.mark("after")
                gap = float(window["worst_gap_ms"])
                (series.blackout_ms if by_tool else series.baseline_blackout_ms).append(gap)
                print(f"  run {run + 1}: {'migrate' if by_tool else 'baseline'} {gap:.1f} ms", file=sys.stderr)
        seen = client.finish()
    if seen["error"] or not seen["contiguous"]:
        raise SystemExit(f"bench: the client was cut off: {seen}")
    return series


CASES: dict[str, Callable[[Rig, int], Series]] = {
    "runc-redis-128m": lambda rig, runs: redis_case(rig, runs, 128),
}


def main() -> int:
    arguments = _parser().parse_args()
    cases = []
    for name in arguments.case or CASES:
        print(f"{name}:", file=sys.stderr)
        rig = Rig(f"bench-{os.getpid()}")
        rig.up()
        try:
            cases.append(CASES[name](rig, arguments.runs).to_json(name))
        finally:
            rig.down()
    result = json.dumps({"schema": SCHEMA, "cases": cases}, indent=2)
    arguments.json.write_text(result + "\n")
    print(result)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="only this one (may be repeated)")
    parser.add_argument("--runs", type=int, default=RUNS, help="moves of each kind per case (default %(default)s)")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the result goes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
