"""Cases of scripts/bench about pre-copy: its speed, its cost for the container, and its limit."""

from __future__ import annotations

import contextlib
import csv
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from migrate.cli.exit_codes import CODES
from migrate.errors import NotConverging
from tests.bench.moves import MOVE_TIMEOUT_S, filled_redis
from tests.bench.spread import spread
from tests.rig import Container, Workload
from tests.rig.hosts import Hosts, Report
from tests.rig.workload import ADDRESS, REDIS_PORT

MIB = 512
LIMIT_BYTES_PER_S = 20_000_000
BYTES = "/dev/shm/bytes"  # noqa: S108  (of a node)
BENCHMARK_REQUESTS = 150_000
BENCHMARK = ["redis-benchmark", "-h", ADDRESS, "-p", str(REDIS_PORT), "-t", "set"]
BENCHMARK += ["-r", "100000", "-d", "512", "-c", "10", "-n", str(BENCHMARK_REQUESTS), "--csv"]
ATTACHED_S = 1.0
#: By name, the limit of the pre-copy that goes on meanwhile. The first is so slow that what is
#: seen is the tracking alone; the second is a copy that takes its share of two processors.
DURING = {"tracked": "1M", "copied at 20 MB/s": "20M"}


def pre_copy(hosts: Hosts, workload: Workload[Container], *options: str) -> Report:
    """Have a move go on until it would freeze the container, and return its report."""
    words = [workload.name, "beta", "--json", *options]
    done = hosts.migrate_with("without_freeze", *words, timeout=MOVE_TIMEOUT_S)
    if done.returncode != CODES[NotConverging]:
        raise SystemExit(f"bench: {done.stderr}")
    return dict(json.loads(done.stdout))


def pre_copy_s(report: Report) -> float:
    """Return how long the pre-copy of a move took."""
    lengths = {phase["name"]: float(phase["length_us"]) for phase in report["phases"]}
    return lengths["pre-copy"] / 1e6


def start_still(hosts: Hosts) -> Workload[Container]:
    """Start a container whose memory does not compress and does not change."""
    return hosts.start("dirtier", "--mib", str(MIB), "--mb-per-second", "0")


def relay_case(hosts: Hosts, runs: int) -> dict[str, Any]:
    """Measure all rounds of memory to the target's store, beside as many random bytes by ssh.

    The bytes go into the target's RAM, and to nowhere.
    """
    workload = start_still(hosts)
    ssh = "ssh -c aes128-gcm@openssh.com beta"
    rates: dict[str, list[float]] = {"relay": [], "ssh to RAM": [], "ssh to /dev/null": []}
    for run in range(runs):
        report = pre_copy(hosts, workload)
        size = report["page_bytes"]
        rates["relay"].append(size / pre_copy_s(report) / 1e6)
        make = f"head -c {size} /dev/urandom > {BYTES}"
        hosts.alpha.run(["sh", "-c", make], timeout=120)
        for name, sink in (("ssh to RAM", BYTES), ("ssh to /dev/null", "/dev/null")):
            started = time.monotonic()
            hosts.alpha.run(["sh", "-c", f"{ssh} 'cat > {sink}' < {BYTES}"], timeout=120)
            rates[name].append(size / (time.monotonic() - started) / 1e6)
        for node in hosts.both:
            node.run(["rm", BYTES])
        last = [f"{name} {found[-1]:.0f}" for name, found in rates.items()]
        print(f"  run {run + 1}:", *last, "MB/s", file=sys.stderr)
    median = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "mb_per_s": {name: spread(found) for name, found in rates.items()},
        "relay_over_ssh_to_ram": round(median["relay"] / median["ssh to RAM"], 3),
        "relay_over_ssh_to_nowhere": round(median["relay"] / median["ssh to /dev/null"], 3),
    }


def limit_case(hosts: Hosts, runs: int) -> dict[str, Any]:
    """Measure what was sent per second of pre-copy, over the limit that it was given."""
    workload = start_still(hosts)
    shares = []
    for run in range(runs):
        report = pre_copy(hosts, workload, "--bandwidth-limit", str(LIMIT_BYTES_PER_S))
        shares.append(report["bytes_sent"]["pages"] / pre_copy_s(report) / LIMIT_BYTES_PER_S)
        print(f"  run {run + 1}: {shares[-1]:.3f} of the limit", file=sys.stderr)
    return {"sent_over_limit": spread(shares, digits=3)}


def cost_case(hosts: Hosts, runs: int) -> dict[str, Any]:
    """Measure redis-benchmark's requests a second, undisturbed and in each of DURING, in turn."""
    redis = filled_redis(hosts, 1024)
    per_s: dict[str, list[float]] = {"undisturbed": [], **{name: [] for name in DURING}}
    for run in range(runs):
        per_s["undisturbed"].append(_requests_per_s(hosts))
        for name, limit in DURING.items():
            with _pre_copying(redis, limit):
                per_s[name].append(_requests_per_s(hosts))
        last = [f"{name} {found[-1]:.0f}/s" for name, found in per_s.items()]
        print(f"  run {run + 1}:", *last, file=sys.stderr)
    median = {name: statistics.median(found) for name, found in per_s.items()}
    shares = {name: round(median[name] / median["undisturbed"], 3) for name in DURING}
    return {
        "requests_per_s": {name: spread(found) for name, found in per_s.items()},
        "over_undisturbed": shares,
    }


@contextlib.contextmanager
def _pre_copying(workload: Workload[Container], limit: str) -> Iterator[None]:
    """Have the first round of a move go on during the block; the move is interrupted at its end."""
    argv = ["migrate", workload.name, "beta", "--bandwidth-limit", limit]
    move = workload.node.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert move.stderr is not None
    next(line for line in move.stderr if "armed" in line)
    time.sleep(ATTACHED_S)
    yield
    if move.poll() is not None:
        raise SystemExit("bench: the pre-copy ended before the benchmark did")
    move.terminate()
    move.communicate()


def _requests_per_s(hosts: Hosts) -> float:
    """Run redis-benchmark on beta, and return how many requests a second it made."""
    lines = hosts.beta.run(BENCHMARK, timeout=120).stdout.splitlines()
    return float(next(csv.DictReader(lines))["rps"])
