"""A case of scripts/bench: a container with very many small files, moved to where none of them are, and back."""

from __future__ import annotations

import time
from typing import Any

from tests.bench.moves import move, other, start_redis
from tests.bench.spread import spread
from tests.rig import Rig

DIRECTORIES, OF_EACH = 500, 100
MIB = 16
#: Run on a node with a path: 50,000 files of 0.5 to 4 KiB.
FILL = f"""
import os, sys
for directory in range({DIRECTORIES}):
    path = f"{{sys.argv[1]}}/{{directory}}"
    os.makedirs(path)
    for number in range({OF_EACH}):
        with open(f"{{path}}/{{number}}", "wb") as file:
            file.write(os.urandom(512) * (1 + number % 8))
"""


def files_case(rig: Rig, runs: int) -> dict[str, Any]:
    """How long the whole move takes and how long the container stands still, each way."""
    here = start_redis(rig, MIB)
    place = f"{here.bundle}/rootfs/srv/files"
    here.node.run(["python3", "-c", FILL, place], timeout=600)
    took: dict[str, list[dict[str, Any]]] = {"all files": [], "differences": []}
    for _ in range(runs):
        for reports in took.values():
            there = other(here, rig)
            if reports is took["all files"]:
                there.run(["rm", "-rf", "--one-file-system", str(here.bundle)], timeout=600)
            here, report, _ = move(here, rig)
            reports.append(report)
            time.sleep(1)
    found = here.node.run(["sh", "-c", f"find {place} -type f | wc -l"], timeout=600).stdout
    if int(found) != DIRECTORIES * OF_EACH:
        raise SystemExit(f"bench: {found.strip()} files arrived")
    return {
        what: {
            "total_ms": spread([report["total_us"] / 1000 for report in reports]),
            "downtime_ms": spread([report["downtime_us"] / 1000 for report in reports]),
        }
        for what, reports in took.items()
    }
