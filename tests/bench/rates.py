"""Cases of scripts/bench about pre-copy: how fast it is, what it costs the container, whether it keeps a limit."""

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

from tests.bench.moves import ADDRESS, DIRTIER_PORT, start_redis
from tests.bench.spread import spread
from tests.clients import REDIS_PORT, ask
from tests.rig import Container, Rig, until

MIB = 512
STILL = [
    "python3",
    "-B",
    "/opt/migrate/tests/workloads/dirtier.py",
    "--mib",
    str(MIB),
    "--mb-per-second",
    "0",
]
#: Ends a move before the freeze, so that it can be repeated on the spot.
STAY = ["--on-no-converge", "abort", "--max-downtime", "1", "--json"]
NOT_CONVERGING = 52
LIMIT_BYTES_PER_S = 20_000_000
BYTES = "/dev/shm/bytes"  # noqa: S108  (of a node)
BENCHMARK = [
    "redis-benchmark",
    "-h",
    ADDRESS,
    "-t",
    "set",
    "-r",
    "100000",
    "-d",
    "512",
    "-c",
    "10",
    "--csv",
]
BENCHMARK_REQUESTS = 150_000
ATTACHED_S = 1.0
#: Slow enough that what is seen is the tracking alone; and a copy that takes its share of two processors.
DURING = {"tracked": "1M", "copied at 20 MB/s": "20M"}


def pre_copy(container: Container, *options: str) -> dict[str, Any]:
    """Everything up to the freeze, and back; the report."""
    done = container.node.run(
        ["migrate", container.name, "beta", *STAY, *options], check=False, timeout=600
    )
    if done.returncode != NOT_CONVERGING:
        raise SystemExit(f"bench: {done.stderr}")
    return dict(json.loads(done.stdout))


def pre_copy_s(report: dict[str, Any]) -> float:
    lengths = {phase["name"]: float(phase["length_us"]) for phase in report["phases"]}
    return lengths["pre-copy"] / 1e6


def start_still(rig: Rig) -> Container:
    """Memory that does not compress and does not change."""
    container = rig.node("alpha").start_container("still", ip=ADDRESS, argv=STILL)
    until(lambda: ask(rig.switch, ADDRESS, DIRTIER_PORT, "STATUS"), "the dirtier to answer")
    return container


def relay_case(rig: Rig, runs: int) -> dict[str, Any]:
    """Memory to the target's store, all rounds, beside as many random bytes by ssh: into RAM there, and to nowhere."""
    container = start_still(rig)
    alpha, beta = rig.node("alpha"), rig.node("beta")
    rates: dict[str, list[float]] = {"relay": [], "ssh to RAM": [], "ssh to /dev/null": []}
    for run in range(runs):
        report = pre_copy(container)
        size = report["page_bytes"]
        rates["relay"].append(size / pre_copy_s(report) / 1e6)
        alpha.run(["sh", "-c", f"head -c {size} /dev/urandom > {BYTES}"], timeout=120)
        for name, sink in (("ssh to RAM", BYTES), ("ssh to /dev/null", "/dev/null")):
            started = time.monotonic()
            alpha.run(
                ["sh", "-c", f"ssh -c aes128-gcm@openssh.com beta 'cat > {sink}' < {BYTES}"],
                timeout=120,
            )
            rates[name].append(size / (time.monotonic() - started) / 1e6)
        for node in (alpha, beta):
            node.run(["rm", BYTES])
        print(
            f"  run {run + 1}:",
            *(f"{name} {found[-1]:.0f}" for name, found in rates.items()),
            "MB/s",
            file=sys.stderr,
        )
    median = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "mb_per_s": {name: spread(found) for name, found in rates.items()},
        "relay_over_ssh_to_ram": round(median["relay"] / median["ssh to RAM"], 3),
        "relay_over_ssh_to_nowhere": round(median["relay"] / median["ssh to /dev/null"], 3),
    }


def limit_case(rig: Rig, runs: int) -> dict[str, Any]:
    """What was sent per second of pre-copy, over the limit it was given."""
    container = start_still(rig)
    shares = []
    for run in range(runs):
        report = pre_copy(container, "--bandwidth-limit", str(LIMIT_BYTES_PER_S))
        shares.append(report["bytes_sent"]["pages"] / pre_copy_s(report) / LIMIT_BYTES_PER_S)
        print(f"  run {run + 1}: {shares[-1]:.3f} of the limit", file=sys.stderr)
    return {"sent_over_limit": spread(shares, digits=3)}


def cost_case(rig: Rig, runs: int) -> dict[str, Any]:
    """redis-benchmark's requests a second: undisturbed, with its memory tracked, and copied besides; in turn."""
    container = start_redis(rig, 1024)
    per_s: dict[str, list[float]] = {"undisturbed": [], **{name: [] for name in DURING}}
    for run in range(runs):
        per_s["undisturbed"].append(_requests_per_s(rig))
        for name, limit in DURING.items():
            with _pre_copying(container, limit):
                per_s[name].append(_requests_per_s(rig))
        print(
            f"  run {run + 1}:",
            *(f"{name} {found[-1]:.0f}/s" for name, found in per_s.items()),
            file=sys.stderr,
        )
    median = {name: statistics.median(found) for name, found in per_s.items()}
    return {
        "requests_per_s": {name: spread(found) for name, found in per_s.items()},
        "over_undisturbed": {
            name: round(median[name] / median["undisturbed"], 3) for name in DURING
        },
    }


@contextlib.contextmanager
def _pre_copying(container: Container, limit: str) -> Iterator[None]:
    """The first round of a move that is interrupted at the end of the block."""
    argv = ["migrate", container.name, "beta", "--bandwidth-limit", limit]
    move = container.node.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert move.stderr is not None
    next(line for line in move.stderr if "armed" in line)
    time.sleep(ATTACHED_S)
    yield
    if move.poll() is not None:
        raise SystemExit("bench: the pre-copy ended before the benchmark did")
    move.terminate()
    move.communicate()


def _requests_per_s(rig: Rig) -> float:
    argv = [*BENCHMARK, "-p", str(REDIS_PORT), "-n", str(BENCHMARK_REQUESTS)]
    rows = list(csv.DictReader(rig.node("beta").run(argv, timeout=120).stdout.splitlines()))
    return float(rows[0]["rps"])
