"""A case of scripts/bench: where the time of a freeze goes."""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

from tests.bench.moves import filled_redis, move
from tests.rig.hosts import Hosts

MIB = 128
SETTLE_S = 1.0
#: An instant of the report's `freeze`, and what happens until then. Each step begins where the step
#: before it ends.
STEPS = (
    ("pre-dump", "CRIU starts on the dump"),
    ("network-lock", "tasks are frozen"),
    ("query-ext-files", "network locked (nft)"),
    ("post-dump", "tasks, memory map, mounts, namespaces dumped; images go over meanwhile"),
    ("images complete", "last pages, last images, changed files go over"),
    ("restore released", "all is there; the pager waits"),
    ("setup-namespaces", "CRIU reads the images, forks"),
    ("post-setup-namespaces", "mounts and namespaces made"),
    ("post-restore", "tasks restored"),
    ("source killed", "the word goes to the source"),
    ("go", "init killed, seen dead; the word goes to the target"),
    ("network-unlock", "CRIU goes on"),
    ("pre-resume", "network unlocked, sockets leave repair mode, tasks caught; link up meanwhile"),
    ("resumed", "tasks run"),
)


def timeline_case(hosts: Hosts, runs: int) -> dict[str, Any]:
    """Measure the median of each step, in ms, of moves of a redis with 128 MiB."""
    redis = filled_redis(hosts, MIB)
    lengths: dict[str, list[float]] = {what: [] for _, what in STEPS}
    for run in range(runs):
        redis, _, at_us = move(hosts, redis)
        before_us = at_us["request DUMP"]
        for instant, what in STEPS:
            lengths[what].append((at_us[instant] - before_us) / 1000)
            before_us = at_us[instant]
        frozen_ms = (at_us["resumed"] - at_us["request DUMP"]) / 1000
        print(f"  run {run + 1}: {frozen_ms:.1f} ms", file=sys.stderr)
        time.sleep(SETTLE_S)
    return {
        "steps_ms": {what: round(statistics.median(found), 1) for what, found in lengths.items()}
    }
