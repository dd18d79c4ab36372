"""Cases of scripts/bench that move a container to and fro, by the tool and by the baseline in turn.

The client is the 1 ms client of tests/workloads; a move's blackout is its worst gap between two replies from just
before the move until well after it.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from tests.bench import baseline
from tests.bench.spread import spread
from tests.clients import REDIS_PORT, WORKLOADS, RedisClient, ask, redis_data
from tests.rig import Container, Node, Rig, until
from tests.rig.engine import EngineContainer

ADDRESS = "10.77.0.50"
REDIS = ["redis-server", "--bind", "0.0.0.0", "--save", "", "--protected-mode", "no"]  # noqa: S104 - in the rig
DIRTIER_PORT = 7106
DIRTIER = [
    "python3",
    "-B",
    "/opt/migrate/tests/workloads/dirtier.py",
    "--mib",
    "256",
    "--hot-mib",
    "64",
]
NGINX = ["nginx", "-e", "/data/error.log", "-c", "/opt/migrate/tests/workloads/nginx.conf"]
FLOOR = ["python3", "-B", "/opt/migrate/tests/bench/floor.py"]
SETTLE_S = 1.0  # a client's retransmissions may come that late


Moved = TypeVar("Moved", Container, EngineContainer)


@dataclass(kw_only=True)
class Series:
    """What the moves of one case showed."""

    blackout_ms: list[float] = field(default_factory=list)
    baseline_blackout_ms: list[float] = field(default_factory=list)
    first_byte_ms: list[float] = field(default_factory=list)
    floor_ms: list[float] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """One entry of the result's `cases`."""

        def median(key: Callable[[dict[str, Any]], float]) -> int:
            return int(statistics.median(map(key, self.reports)))

        blackout = statistics.median(self.blackout_ms)
        memory, frozen = (
            median(lambda report: report["memory_bytes"]),
            median(lambda r: r["frozen_bytes_sent"]),
        )
        return {
            "blackout_ms": spread(self.blackout_ms),
            "downtime_ms": spread([report["downtime_us"] / 1000 for report in self.reports]),
            "predicted_downtime_ms": spread(
                [report["predicted_downtime_us"] / 1000 for report in self.reports]
            ),
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


def other(container: Container | EngineContainer, rig: Rig) -> Node:
    """The node where it is not."""
    return rig.node("beta" if container.node.name == "alpha" else "alpha")


def move(container: Moved, rig: Rig) -> tuple[Moved, dict[str, Any], dict[str, float]]:
    """To the other node: the container there, the report, and its instants in us."""
    there = other(container, rig)
    report = json.loads(
        container.node.run(["migrate", container.name, there.name, "--json"], timeout=600).stdout
    )
    at_us = {stage["name"]: stage["at_us"] for stage in report["freeze"]}
    return replace(container, node=there), report, at_us


def last_word(client: RedisClient) -> Mapping[str, Any]:
    """The figures of a client's whole run, which must have gone on all the time."""
    seen = client.finish()
    if seen["error"] or not seen["contiguous"]:
        raise SystemExit(f"bench: the client was cut off: {seen}")
    return seen


def moves(
    rig: Rig, runs: int, here: Container, port: int, client_program: str = "redis_client.py"
) -> Series:
    """Move a container to and fro, by tool and baseline in turn, and have CRIU dump and restore it on the spot."""
    series = Series()
    with RedisClient(rig.switch, ADDRESS, port, client_program) as client:
        for run in range(runs):
            for by_tool in (True, False):
                client.mark("before")
                if by_tool:
                    here, report, _ = move(here, rig)
                    series.reports.append(report)
                else:
                    here = baseline.move(here, other(here, rig))
                time.sleep(SETTLE_S)
                gap = float(client.mark("after")["worst_gap_ms"])
                (series.blackout_ms if by_tool else series.baseline_blackout_ms).append(gap)
                print(
                    f"  run {run + 1}: {'migrate' if by_tool else 'baseline'} {gap:.1f} ms",
                    file=sys.stderr,
                )
            floor = json.loads(here.node.run([*FLOOR, here.name], timeout=600).stdout)
            series.floor_ms.append(floor["dump_ms"] + floor["restore_ms"])
            print(f"  run {run + 1}: floor {series.floor_ms[-1]:.1f} ms {floor}", file=sys.stderr)
        seen = last_word(client)
    series.first_byte_ms = [first_byte_ms(report, seen["gaps"]) for report in series.reports]
    return series


def first_byte_ms(report: dict[str, Any], gaps: list[dict[str, Any]]) -> float:
    """From the resume to the end of the gap that it ended, both by this machine's clock."""
    resumed_us = next(stage["at_us"] for stage in report["freeze"] if stage["name"] == "resumed")
    resumed_ms = report["started_unix_ns"] / 1e6 + resumed_us / 1e3
    ends_ms = [gap["start_unix_ns"] / 1e6 + gap["ms"] for gap in gaps]
    return min((end_ms - resumed_ms for end_ms in ends_ms if end_ms > resumed_ms), default=0.0)


def start_redis(rig: Rig, mib: int) -> Container:
    """A redis on alpha with that much data."""
    container = rig.node("alpha").start_container("redis", ip=ADDRESS, argv=REDIS)
    until(lambda: ask(rig.switch, ADDRESS, REDIS_PORT, "PING") == "+PONG", "redis to answer")
    redis_data(rig.switch, ADDRESS, "fill", "--mib", str(mib))
    return container


@contextlib.contextmanager
def load(rig: Rig, per_second: int) -> Iterator[None]:
    """So many random SETs a second, besides."""
    argv = [
        sys.executable,
        "-B",
        str(WORKLOADS / "redis_data.py"),
        ADDRESS,
        str(REDIS_PORT),
        "load",
    ]
    process = rig.switch.popen([*argv, "--per-second", str(per_second)], stdout=subprocess.PIPE)
    try:
        yield
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=60)
    if process.returncode != 0:
        raise SystemExit(f"bench: the load was cut off: {output}")


def redis_case(rig: Rig, runs: int, mib: int, sets_per_second: int = 0) -> dict[str, Any]:
    """redis with that much data."""
    container = start_redis(rig, mib)
    with load(rig, sets_per_second) if sets_per_second else contextlib.nullcontext():
        return moves(rig, runs, container, REDIS_PORT).to_json()


def idle_case(rig: Rig, runs: int) -> dict[str, Any]:
    """nginx, and one client that keeps its connection."""
    container = rig.node("alpha").start_container("nginx", ip=ADDRESS, argv=NGINX)
    until(lambda: ask(rig.switch, ADDRESS, 80, "GET / HTTP/1.0\r\n\r"), "nginx to answer")
    return moves(rig, runs, container, 80, "http_client.py").to_json()


def dirtier_case(rig: Rig, runs: int, mb_per_second: int) -> dict[str, Any]:
    """256 MiB, of which 64 are written at that rate."""
    argv = [*DIRTIER, "--mb-per-second", str(mb_per_second)]
    container = rig.node("alpha").start_container("dirtier", ip=ADDRESS, argv=argv)
    until(lambda: ask(rig.switch, ADDRESS, DIRTIER_PORT, "STATUS"), "the dirtier to answer")
    result = moves(rig, runs, container, DIRTIER_PORT).to_json()
    verdict = json.loads(ask(rig.switch, ADDRESS, DIRTIER_PORT, "STATUS"))
    if not verdict["ok"]:
        raise SystemExit(f"bench: memory is not what it was: {verdict}")
    return result
