"""A case of scripts/bench: whether many moves stay as quick, and whether anything stays behind."""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

from tests.bench.moves import filled_redis, last_word, load, move
from tests.bench.spread import percentile, spread
from tests.rig import Node
from tests.rig.hosts import Hosts

MOVES_A_RUN = 20
MIB, SETS_PER_SECOND = 128, 500
SETTLE_S = 0.5
#: Counts what is on a node. `files` are in the trees where a move makes some or might leave some.
COUNTS = """
import json, os, subprocess
def lines(*argv):
    return len(subprocess.run(argv, capture_output=True, text=True).stdout.splitlines())
pids = [p for p in os.listdir("/proc") if p.isdigit() and p != str(os.getpid())]
def number(path, start):
    try:
        return next(int(line.split()[1]) for line in open(path) if line.startswith(start))
    except (OSError, StopIteration):
        return 0
def fds(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0
trees = ("/run", "/tmp", "/dev/shm", "/srv", "/var/log", "/var/lib", "/root")
print(json.dumps({
    "processes": len(pids),
    "fds": sum(map(fds, pids)),
    "anonymous_kb": sum(number(f"/proc/{p}/status", "RssAnon:") for p in pids),
    "mounts": len(open("/proc/self/mountinfo").readlines()),
    "netns": lines("ip", "netns"),
    "links": lines("ip", "-o", "link"),
    "rules": lines("nft", "list", "ruleset") + lines("iptables-save"),
    "files": sum(len(names) for tree in trees for _, _, names in os.walk(tree)),
}))
"""


def count(node: Node) -> dict[str, int]:
    """Return how much there is on a node, by kind (COUNTS)."""
    return dict(json.loads(node.run(["python3", "-c", COUNTS]).stdout))


def soak_case(hosts: Hosts, runs: int) -> dict[str, Any]:
    """Measure redis with 128 MiB under load, to and fro, with 20 moves a run.

    Nothing is counted before it was moved to beta and back once.
    """
    redis = filled_redis(hosts, MIB)
    blackout_ms: list[float] = []
    with load(hosts, SETS_PER_SECOND), redis.client() as client:
        for _ in range(2):
            redis, _, _ = move(hosts, redis)
        before = {node.name: count(node) for node in hosts.both}
        for number in range(runs * MOVES_A_RUN):
            client.mark("before")
            redis, _, _ = move(hosts, redis)
            time.sleep(SETTLE_S)
            blackout_ms.append(float(client.mark("after")["worst_gap_ms"]))
            print(f"  move {number + 1}: {blackout_ms[-1]:.1f} ms", file=sys.stderr)
        after = {node.name: count(node) for node in hosts.both}
        last_word(client)
    p99 = percentile(blackout_ms, 99)
    return {
        "moves": len(blackout_ms),
        "blackout_ms": spread(blackout_ms),
        "p99_ms": round(p99, 1),
        "p99_over_median": round(p99 / statistics.median(blackout_ms), 2),
        "before": before,
        "after": after,
        "grown": {
            name: {what: after[name][what] - before[name][what] for what in before[name]}
            for name in before
        },
    }
