"""A case of scripts/bench: where the time of a freeze goes."""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

from tests.bench.moves import move, start_redis
from tests.rig import Rig

MIB = 128
SETTLE_S = 1.0
#: (until which instant of the report's `freeze`, what happens until then). Each begins where the one before ends.
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


def timeline_case(rig: Rig, runs: int) -> dict[str, Any]:
    """Medians of each step, in ms, of moves of a redis with 128 MiB."""
    container = start_redis(rig, MIB)
    lengths: dict[str, list[float]] = {what: [] for _, what in STEPS}
    for run in range(runs):
        container, _, at_us = move(container, rig)
        before_us = at_us["request DUMP"]
        for instant, what in STEPS:
            lengths[what].append((at_us[instant] - before_us) / 1000)
            before_us = at_us[instant]
        print(
            f"  run {run + 1}: {(at_us['resumed'] - at_us['request DUMP']) / 1000:.1f} ms",
            file=sys.stderr,
        )
        time.sleep(SETTLE_S)
    return {
        "steps_ms": {what: round(statistics.median(found), 1) for what, found in lengths.items()}
    }
