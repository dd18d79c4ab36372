"""A case of scripts/bench: a container with very many small files.

It is moved to where none of the files are, and back to where only some differ.
"""

from __future__ import annotations

import time
from typing import Any

from tests.bench.moves import filled_redis, move
from tests.bench.spread import spread
from tests.rig.hosts import Hosts, Report

DIRECTORIES, OF_EACH = 500, 100
MIB = 16
#: argv: a path, in which 50,000 files of 0.5 to 4 KiB are made.
FILL = f"""
import os, sys
for directory in range({DIRECTORIES}):
    path = f"{{sys.argv[1]}}/{{directory}}"
    os.makedirs(path)
    for number in range({OF_EACH}):
        with open(f"{{path}}/{{number}}", "wb") as file:
            file.write(os.urandom(512) * (1 + number % 8))
"""


def files_case(hosts: Hosts, runs: int) -> dict[str, Any]:
    """Measure how long the whole move takes and how long the container stands still, each way."""
    container = filled_redis(hosts, MIB).container
    place = f"{container.bundle}/rootfs/srv/files"
    container.node.run(["python3", "-c", FILL, place], timeout=600)
    took: dict[str, list[Report]] = {"all files": [], "differences": []}
    for _ in range(runs):
        for reports in took.values():
            if reports is took["all files"]:
                remove = ["rm", "-rf", "--one-file-system", str(container.bundle)]
                hosts.other(container.node).run(remove, timeout=600)
            container, report, _ = move(hosts, container)
            reports.append(report)
            time.sleep(1)
    found = container.node.run(["sh", "-c", f"find {place} -type f | wc -l"], timeout=600).stdout
    if int(found) != DIRECTORIES * OF_EACH:
        raise SystemExit(f"bench: {found.strip()} files arrived")
    return {
        what: {
            "total_ms": spread([report["total_us"] / 1000 for report in reports]),
            "downtime_ms": spread([report["downtime_us"] / 1000 for report in reports]),
        }
        for what, reports in took.items()
    }
