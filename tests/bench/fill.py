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

from tests.bench.moves import filled_redis, move
from tests.bench.spread import percentile, spread
from tests.rig.clients import program_command
from tests.rig.hosts import Hosts
from tests.rig.workload import ADDRESS, REDIS_PORT

MIB = 1024
BENCHMARK = ["redis-benchmark", "-h", ADDRESS, "-p", str(REDIS_PORT), "-t", "set"]
BENCHMARK += ["-r", "100000", "-d", "512", "-c", "10"]
ENDLESS = ["-l", "-q"]
NORMAL_S, AFTER_S, SETTLE_S = 4.0, 8.0, 3.0
#: A rate is taken over so many samples of workloads/redis_rate.py: half a second.
WINDOW = 5
NORMAL_SHARE = 0.9


def first_touch_case(hosts: Hosts, runs: int) -> dict[str, Any]:
    """Measure how long a program waits for memory that is not there yet.

    The program's own clock tells, and the pager's.
    """
    toucher = hosts.start("toucher", "--mib", str(MIB))
    names = ("p50", "p99", "max", "fill", "touches", "pager_p99")
    found: dict[str, list[float]] = {name: [] for name in names}
    for run in range(runs):
        toucher, report, at_us = move(hosts, toucher)
        time.sleep(SETTLE_S)
        touches = toucher.verdict()["touches"]
        fill_us = at_us["memory in place"] - at_us["resumed"]
        took_ms = [took_us / 1000 for since_us, took_us in touches if since_us < fill_us]
        found["p50"].append(percentile(took_ms, 50))
        found["p99"].append(percentile(took_ms, 99))
        found["max"].append(max(took_ms))
        found["fill"].append(fill_us / 1000)
        found["touches"].append(len(took_ms))
        found["pager_p99"].append(report["fill"]["wait_p99_us"] / 1000)
        last = {name: round(values[-1], 3) for name, values in found.items()}
        print(f"  run {run + 1}:", last, file=sys.stderr)
    return {
        "first_touch_ms": {name: spread(found[name], digits=3) for name in ("p50", "p99", "max")},
        "touches": spread(found["touches"]),
        "pager_wait_p99_ms": spread(found["pager_p99"], digits=3),
        "fill_ms": spread(found["fill"]),
        "fill_mb_per_s": round((MIB << 20) / statistics.median(found["fill"]) / 1000, 1),
    }


def recovery_case(hosts: Hosts, runs: int) -> dict[str, Any]:
    """Measure how long after the resume redis-benchmark is as fast as before, up to NORMAL_SHARE.

    It runs on beta, and so on the processors that the moves use.
    """
    redis = filled_redis(hosts, MIB)
    recovered_s = []
    with _benchmark(hosts):
        for run in range(runs):
            with _rates(hosts) as samples:
                time.sleep(NORMAL_S)
                redis, report, at_us = move(hosts, redis)
                time.sleep(AFTER_S)
            begun_ns = report["started_unix_ns"]
            resumed_ns = begun_ns + int(at_us["resumed"]) * 1000
            recovered_s.append(after_resume_s(samples, begun_ns, resumed_ns))
            print(f"  run {run + 1}: back after {recovered_s[-1]:.2f} s", file=sys.stderr)
    return {"recovered_s": spread(recovered_s, digits=2)}


def after_resume_s(samples: list[dict[str, int]], begun_ns: int, resumed_ns: int) -> float:
    """Return when the first window after the resume ended that is as fast as usual.

    The result is in seconds after the resume; AFTER_S if there is no such window.
    """
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
    return AFTER_S


@contextlib.contextmanager
def _benchmark(hosts: Hosts) -> Iterator[None]:
    """Have redis-benchmark run on beta during the block."""
    null = subprocess.DEVNULL
    process = hosts.beta.popen([*BENCHMARK, *ENDLESS], stdout=null, stderr=null)
    try:
        yield
        if process.poll() is not None:
            raise SystemExit("bench: redis-benchmark was cut off")
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextlib.contextmanager
def _rates(hosts: Hosts) -> Iterator[list[dict[str, int]]]:
    """Collect samples of how much redis does; they are complete at the end of the block."""
    argv = [*program_command("redis_rate.py"), ADDRESS, str(REDIS_PORT)]
    process = hosts.switch.popen(argv, stdout=subprocess.PIPE)
    samples: list[dict[str, int]] = []
    try:
        yield samples
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=60)
    samples += map(json.loads, output.splitlines())
