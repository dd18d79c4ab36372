"""Cases of scripts/bench about the time after the resume, while memory is still filled in."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from tests.bench.moves import ADDRESS, move, start_redis
from tests.bench.spread import percentile, spread
from tests.clients import REDIS_PORT, WORKLOADS, ask, status
from tests.rig import Rig, until

MIB = 1024
TOUCHER_PORT = 7107
TOUCHER = ["python3", "-B", "/opt/migrate/tests/workloads/toucher.py", "--mib", str(MIB)]
BENCHMARK = [
    "redis-benchmark",
    "-h",
    ADDRESS,
    "-p",
    str(REDIS_PORT),
    "-t",
    "set",
    "-r",
    "100000",
    "-d",
    "512",
]
BENCHMARK_ENDLESS = [*BENCHMARK, "-c", "10", "-l", "-q"]
NORMAL_S, AFTER_S, SETTLE_S = 4.0, 8.0, 3.0
#: Rates are of so many samples of workloads/redis_rate.py: half a second.
WINDOW = 5
NORMAL_SHARE = 0.9


def first_touch_case(rig: Rig, runs: int) -> dict[str, Any]:
    """What a program waits for memory that is not there yet, by its own clock and by the pager's."""
    container = rig.node("alpha").start_container("toucher", ip=ADDRESS, argv=TOUCHER)
    until(lambda: ask(rig.switch, ADDRESS, TOUCHER_PORT, "STATUS"), "the toucher to answer")
    found: dict[str, list[float]] = {
        name: [] for name in ("p50", "p99", "max", "fill", "touches", "pager_p99")
    }
    for run in range(runs):
        container, report, at_us = move(container, rig)
        time.sleep(SETTLE_S)
        verdict = status(rig.switch, ADDRESS, TOUCHER_PORT)
        if not verdict["ok"]:
            raise SystemExit(f"bench: memory is not what it was: {verdict['errors']}")
        fill_us = at_us["memory in place"] - at_us["resumed"]
        took_ms = [took_us / 1000 for since_us, took_us in verdict["touches"] if since_us < fill_us]
        found["p50"].append(percentile(took_ms, 50))
        found["p99"].append(percentile(took_ms, 99))
        found["max"].append(max(took_ms))
        found["fill"].append(fill_us / 1000)
        found["touches"].append(len(took_ms))
        found["pager_p99"].append(report["fill"]["wait_p99_us"] / 1000)
        print(
            f"  run {run + 1}:",
            {name: round(values[-1], 3) for name, values in found.items()},
            file=sys.stderr,
        )
    return {
        "first_touch_ms": {name: spread(found[name], digits=3) for name in ("p50", "p99", "max")},
        "touches": spread(found["touches"]),
        "pager_wait_p99_ms": spread(found["pager_p99"], digits=3),
        "fill_ms": spread(found["fill"]),
        "fill_mb_per_s": round((MIB << 20) / statistics.median(found["fill"]) / 1000, 1),
    }


def recovery_case(rig: Rig, runs: int) -> dict[str, Any]:
    """How long after the resume redis-benchmark, on the hosts' own processors, is back to 0.9 of what it did before."""
    container = start_redis(rig, MIB)
    recovered_s = []
    with _benchmark(rig):
        for run in range(runs):
            with _rates(rig) as samples:
                time.sleep(NORMAL_S)
                container, report, at_us = move(container, rig)
                time.sleep(AFTER_S)
            begun_ns = report["started_unix_ns"]
            recovered_s.append(
                recovery_s(samples, begun_ns, begun_ns + int(at_us["resumed"]) * 1000)
            )
            print(f"  run {run + 1}: back after {recovered_s[-1]:.2f} s", file=sys.stderr)
    return {"recovered_s": spread(recovered_s, digits=2)}


def recovery_s(samples: list[dict[str, int]], begun_ns: int, resumed_ns: int) -> float:
    """Until the end of the first window after the resume that is as fast as usual; at most AFTER_S."""
    windows = [
        (
            last["unix_ns"],
            (last["commands"] - first["commands"]) / (last["unix_ns"] - first["unix_ns"]),
            first["unix_ns"],
        )
        for first, last in zip(samples, samples[WINDOW:], strict=False)
    ]
    normal = statistics.median(rate for end_ns, rate, _ in windows if end_ns < begun_ns)
    for end_ns, rate, start_ns in windows:
        if start_ns >= resumed_ns and rate >= NORMAL_SHARE * normal:
            return (end_ns - resumed_ns) / 1e9
    return AFTER_S  # at least


@contextlib.contextmanager
def _benchmark(rig: Rig) -> Iterator[None]:
    process = rig.node("beta").popen(
        BENCHMARK_ENDLESS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
        if process.poll() is not None:
            raise SystemExit("bench: redis-benchmark was cut off")
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextlib.contextmanager
def _rates(rig: Rig) -> Iterator[list[dict[str, int]]]:
    """Samples, complete at the end of the block."""
    argv = [sys.executable, "-B", str(WORKLOADS / "redis_rate.py"), ADDRESS, str(REDIS_PORT)]
    process = rig.switch.popen(argv, stdout=subprocess.PIPE)
    samples: list[dict[str, int]] = []
    try:
        yield samples
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=60)
    samples += map(json.loads, output.splitlines())
