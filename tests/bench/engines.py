"""Cases of scripts/bench for crun, podman and docker: redis moved to and fro, beside the best that there is without us.

For podman that is its own `checkpoint --export` and `restore --import`; docker restores nothing with connections, and
for it and crun the move of a runc container by script (baseline.py) stands beside, in the same run.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench import baseline
from tests.bench.moves import ADDRESS, REDIS, SETTLE_S, last_word, move, other
from tests.bench.spread import spread
from tests.clients import REDIS_PORT, RedisClient, ask, redis_data
from tests.rig import Node, Rig, until
from tests.rig.engine import EngineContainer, load, set_up
from tests.services import REDIS_IMAGE as IMAGE
from tests.services import write_redis

MIB = 128
ARCHIVE = "/dev/shm/redis.checkpoint"  # noqa: S108  (of a node)
#: As well as such a script can be: nothing is compressed, the archive stays in RAM, one connection copies and restores.
EXPORT_IMPORT = """
set -e
keep="--tcp-established --file-locks"
podman container checkpoint --export={archive} --compress=none --ignore-rootfs $keep {name} >&2
ssh {target} 'cat > {archive} && podman container restore --import={archive} --ignore-rootfs '"$keep"' >&2 &&
  rm {archive}' < {archive}
rm {archive}
podman rm {name} >&2
"""


def export_import(container: EngineContainer, target: Node) -> EngineContainer:
    """Move a container by podman's own commands; the container there."""
    script = EXPORT_IMPORT.format(archive=ARCHIVE, name=container.name, target=target.name)
    container.node.run(["bash", "-c", script], timeout=300)
    return container.on(target)


def gaps_of(rig: Rig, runs: int, here: Any, moves: list[Callable[[Any], Any]]) -> list[list[float]]:
    """The client's worst gap in ms, of each kind of move in turn, so often."""
    gaps: list[list[float]] = [[] for _ in moves]
    with RedisClient(rig.switch, ADDRESS) as client:
        for run in range(runs):
            for kind, way in enumerate(moves):
                client.mark("before")
                here = way(here)
                time.sleep(SETTLE_S)
                gaps[kind].append(float(client.mark("after")["worst_gap_ms"]))
                print(f"  run {run + 1}: {gaps[kind][-1]:.1f} ms", file=sys.stderr)
        last_word(client)
    for node in rig.nodes:
        replace(here, node=node).remove()
    return gaps


def filled(rig: Rig, container: Any) -> Any:
    """Once it answers, with data."""
    until(lambda: ask(rig.switch, ADDRESS, REDIS_PORT, "PING") == "+PONG", "redis to answer")
    redis_data(rig.switch, ADDRESS, "fill", "--mib", str(MIB))
    return container


def engine_case(rig: Rig, runs: int, engine: str) -> dict[str, Any]:
    """redis with 128 MiB in a container of that engine."""
    reports: list[dict[str, Any]] = []

    def by_tool(container: Any) -> Any:
        there, report, _ = move(container, rig)
        reports.append(report)
        return there

    alpha = rig.node("alpha")
    if engine == "crun":
        redis: Any = alpha.start_container("redis", ip=ADDRESS, argv=REDIS, runtime="crun")
    else:
        prepare(rig, engine)
        redis = EngineContainer.start(alpha, engine, "redis", IMAGE, REDIS, address=ADDRESS)
    filled(rig, redis)
    if engine == "podman":
        ours, theirs = gaps_of(
            rig, runs, redis, [by_tool, lambda c: export_import(c, other(c, rig))]
        )
    else:
        [ours] = gaps_of(rig, runs, redis, [by_tool])
        plain = filled(rig, alpha.start_container("redis", ip=ADDRESS, argv=REDIS))
        [theirs] = gaps_of(rig, runs, plain, [lambda c: baseline.move(c, other(c, rig))])
    return {
        "blackout_ms": spread(ours),
        "downtime_ms": spread([report["downtime_us"] / 1000 for report in reports]),
        "baseline": "podman checkpoint --export, restore --import"
        if engine == "podman"
        else "runc, by script",
        "baseline_blackout_ms": spread(theirs),
        "ratio": round(statistics.median(theirs) / statistics.median(ours), 2),
    }


def prepare(rig: Rig, engine: str) -> None:
    """The engine on both nodes, with an image of redis."""
    with tempfile.TemporaryDirectory() as directory:
        archive = Path(directory) / "redis.tar"
        write_redis(archive)
        for node in rig.nodes:
            set_up(node, engine)
            load(node, engine, archive)
