"""The case of scripts/bench about what a freeze takes time for besides memory that is written.

Each workload has many of one thing, and is moved to and fro. What a move has taught is forgotten,
so that each prediction is made of the costs in migrate/decisions/prediction.py.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from migrate import costs
from tests.bench.moves import SETTLE_S, move
from tests.bench.spread import spread
from tests.rig import Container, Workload
from tests.rig.clients import program_command
from tests.rig.hosts import Hosts

#: By name: the words of tests/workloads/crowd.py, and how many connections it gets.
CROWDS: dict[str, tuple[list[str], int]] = {
    "nothing": ([], 0),
    "200 processes": (["--processes", "200"], 0),
    "2,000 threads": (["--threads", "2000"], 0),
    "10,000 connections": ([], 10_000),
    "16,000 descriptors": (["--descriptors", "16000"], 0),
    "20,000 mappings": (["--mappings", "20000"], 0),
    "1 GiB shared": (["--shared-mib", "1024"], 0),
    "2.5 GiB shared": (["--shared-mib", "2560"], 0),
}


def items_case(hosts: Hosts, runs: int) -> dict[str, Any]:
    """Measure the freeze of each crowd beside its prediction."""
    return {"crowds": {name: _crowd(hosts, runs, name) for name in CROWDS}}


def _crowd(hosts: Hosts, runs: int, name: str) -> dict[str, Any]:
    words, connections = CROWDS[name]
    crowd = hosts.start("crowd", *words)
    gaps_ms, predicted_ms = [], []
    with _connected(hosts, crowd, connections), crowd.client() as client:
        for run in range(runs):
            for host in hosts.both:
                host.run(["rm", "-f", str(costs.FILE)])
            client.mark("before")
            crowd, report, _ = move(hosts, crowd)
            time.sleep(SETTLE_S)
            gaps_ms.append(float(client.mark("after")["worst_gap_ms"]))
            predicted_ms.append(report["predicted_downtime_us"] / 1000)
            said = f"{gaps_ms[-1]:.0f} ms, predicted {predicted_ms[-1]:.0f}"
            print(f"  {name}: run {run + 1}: {said}", file=sys.stderr)
    crowd.remove()
    return {"blackout_ms": spread(gaps_ms), "predicted_ms": spread(predicted_ms)}


@contextlib.contextmanager
def _connected(hosts: Hosts, crowd: Workload[Container], count: int) -> Iterator[None]:
    """Have so many connections to a crowd for the length of the block."""
    argv = [*program_command("idle_clients.py"), crowd.address, str(crowd.port)]
    idle = hosts.switch.popen(
        [*argv, "--count", str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert idle.stdout is not None
    assert idle.stdout.readline() == "READY\n"
    yield
    idle.communicate("", timeout=60)
