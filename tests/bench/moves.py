"""Cases of scripts/bench that move a container to and fro, by the tool and by the baseline in turn.

The client is the 1 ms client of tests/workloads. The blackout of a move is the client's worst gap
between two replies, from just before the move until well after it.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.bench import baseline
from tests.bench.spread import spread
from tests.rig import Container, Redis, Workload
from tests.rig.clients import Client, program_command
from tests.rig.hosts import Hosts, Movable, Report
from tests.rig.node_init import CHECKOUT_IN_NODE
from tests.rig.workload import ADDRESS, REDIS_PORT, WORKLOADS, start_redis

NGINX = ["nginx", "-e", "/data/error.log", "-c", f"{WORKLOADS}/nginx.conf"]
FLOOR = ["python3", "-B", f"{CHECKOUT_IN_NODE}/tests/bench/floor.py"]
MOVE_TIMEOUT_S = 600.0
SETTLE_S = 1.0  # a client's retransmissions may come that late

Moved = TypeVar("Moved", bound=Movable)


@dataclass(kw_only=True)
class Series:
    """The figures of the moves of one case."""

    blackout_ms: list[float] = field(default_factory=list)
    baseline_blackout_ms: list[float] = field(default_factory=list)
    first_byte_ms: list[float] = field(default_factory=list)
    floor_ms: list[float] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return one entry of the result's `cases`."""

        def median(key: Callable[[Report], float]) -> int:
            return int(statistics.median(map(key, self.reports)))

        blackout = statistics.median(self.blackout_ms)
        memory = median(lambda report: report["memory_bytes"])
        frozen = median(lambda report: report["frozen_bytes_sent"])
        downtimes_ms = [report["downtime_us"] / 1000 for report in self.reports]
        predicted_ms = [report["predicted_downtime_us"] / 1000 for report in self.reports]
        return {
            "blackout_ms": spread(self.blackout_ms),
            "downtime_ms": spread(downtimes_ms),
            "predicted_downtime_ms": spread(predicted_ms),
            "resume_to_first_byte_ms": spread(self.first_byte_ms),
            "baseline_blackout_ms": spread(self.baseline_blackout_ms),
            "ratio": round(statistics.median(self.baseline_blackout_ms) / blackout, 2),
            "floor_ms": spread(self.floor_ms),
            "blackout_over_floor": round(blackout / statistics.median(self.floor_ms), 2),
            "rounds": median(lambda report: report["rounds"]),
            "page_bytes": median(lambda report: report["page_bytes"]),
            "bytes_sent": median(lambda report: sum(report["bytes_sent"].values())),
            "frozen_bytes_sent": frozen,
            "frozen_share_of_memory": round(frozen / memory, 4),
            "memory_bytes": memory,
        }


def move(hosts: Hosts, container: Moved) -> tuple[Moved, Report, dict[str, float]]:
    """Move a container to the other host, and return it, the report, and its instants in us."""
    moved, report = hosts.move(container, timeout=MOVE_TIMEOUT_S)
    return moved, report, {stage["name"]: stage["at_us"] for stage in report["freeze"]}


def last_word(client: Client) -> Mapping[str, Any]:
    """Return the figures of a client's whole run. Raises SystemExit if it was cut off."""
    seen = client.finish()
    if seen["error"] or not seen["contiguous"]:
        raise SystemExit(f"bench: the client was cut off: {seen}")
    return seen


def moves(
    hosts: Hosts, runs: int, workload: Workload[Container], program: str = "redis_client.py"
) -> Series:
    """Move a workload to and fro, by the tool and by the baseline in turn.

    After each two moves CRIU dumps and restores it on the spot, which is the floor.
    """
    series = Series()
    container = workload.container
    with workload.client(program) as client:
        for run in range(runs):
            for by_tool in (True, False):
                client.mark("before")
                if by_tool:
                    container, report, _ = move(hosts, container)
                    series.reports.append(report)
                else:
                    container = baseline.move(container, hosts.other(container.node))
                time.sleep(SETTLE_S)
                gap = float(client.mark("after")["worst_gap_ms"])
                (series.blackout_ms if by_tool else series.baseline_blackout_ms).append(gap)
                way = "migrate" if by_tool else "baseline"
                print(f"  run {run + 1}: {way} {gap:.1f} ms", file=sys.stderr)
            dumped = container.node.run([*FLOOR, container.name], timeout=MOVE_TIMEOUT_S)
            floor = json.loads(dumped.stdout)
            series.floor_ms.append(floor["dump_ms"] + floor["restore_ms"])
            print(f"  run {run + 1}: floor {series.floor_ms[-1]:.1f} ms {floor}", file=sys.stderr)
        seen = last_word(client)
    series.first_byte_ms = [first_byte_ms(report, seen["gaps"]) for report in series.reports]
    return series


def first_byte_ms(report: Report, gaps: list[dict[str, Any]]) -> float:
    """Return the time from the resume to the end of the gap that it ended.

    The clock of this machine tells both.
    """
    resumed_us = next(stage["at_us"] for stage in report["freeze"] if stage["name"] == "resumed")
    resumed_ms = report["started_unix_ns"] / 1e6 + resumed_us / 1e3
    ends_ms = [gap["start_unix_ns"] / 1e6 + gap["ms"] for gap in gaps]
    return min((end_ms - resumed_ms for end_ms in ends_ms if end_ms > resumed_ms), default=0.0)


def filled_redis(hosts: Hosts, mib: int) -> Redis[Container]:
    """Start a redis on alpha, with so much data."""
    redis = start_redis(hosts.alpha)
    redis.fill(mib)
    return redis


@contextlib.contextmanager
def load(hosts: Hosts, per_second: int) -> Iterator[None]:
    """Have redis get so many random SETs a second during the block."""
    argv = [*program_command("redis_data.py"), ADDRESS, str(REDIS_PORT), "load"]
    process = hosts.switch.popen([*argv, "--per-second", str(per_second)], stdout=subprocess.PIPE)
    try:
        yield
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=60)
    if process.returncode != 0:
        raise SystemExit(f"bench: the load was cut off: {output}")


def redis_case(hosts: Hosts, runs: int, mib: int, sets_per_second: int = 0) -> dict[str, Any]:
    """Measure redis with so much data, and under load if there are SETs a second."""
    redis = filled_redis(hosts, mib)
    with load(hosts, sets_per_second) if sets_per_second else contextlib.nullcontext():
        return moves(hosts, runs, redis).to_json()


def idle_case(hosts: Hosts, runs: int) -> dict[str, Any]:
    """Measure nginx with one client that keeps its connection."""
    container = hosts.alpha.start_container("nginx", ip=ADDRESS, argv=NGINX)
    get = "GET / HTTP/1.0\r\n\r"
    nginx = Workload(container=container, port=80, question=get, answer="200 OK").ready()
    return moves(hosts, runs, nginx, "http_client.py").to_json()


def dirtier_case(hosts: Hosts, runs: int, mb_per_second: int) -> dict[str, Any]:
    """Measure 256 MiB, of which 64 are written at that rate."""
    rate = str(mb_per_second)
    dirtier = hosts.start("dirtier", "--mib", "256", "--hot-mib", "64", "--mb-per-second", rate)
    result = moves(hosts, runs, dirtier).to_json()
    dirtier.verdict()
    return result
