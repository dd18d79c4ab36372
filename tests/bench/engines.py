"""Cases of scripts/bench for crun, podman and docker: redis moved to and fro.

Beside each stands the best that there is without this tool. For podman that is its own
`checkpoint --export` and `restore --import`. docker restores nothing with connections: for it and
for crun it is the move of a runc container by script (baseline.py), in the same run.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.bench import baseline
from tests.bench.moves import SETTLE_S, filled_redis, last_word, move
from tests.bench.spread import spread
from tests.rig import EngineContainer, Node, Redis
from tests.rig.hosts import Hosts, Report
from tests.rig.services import REDIS_IMAGE, give_redis
from tests.rig.workload import ADDRESS, REDIS, start_redis

MIB = 128
ARCHIVE = "/dev/shm/redis.checkpoint"  # noqa: S108  (of a node)
#: As good as such a script can be: nothing is compressed, the archive stays in RAM, and one
#: connection copies and restores.
EXPORT_IMPORT = """
set -e
keep="--tcp-established --file-locks"
podman container checkpoint --export={archive} --compress=none --ignore-rootfs $keep {name} >&2
ssh {target} '
  set -e
  cat > {archive}
  podman container restore --import={archive} --ignore-rootfs '"$keep"' >&2
  rm {archive}
' < {archive}
rm {archive}
podman rm {name} >&2
"""


def export_import(container: EngineContainer, target: Node) -> EngineContainer:
    """Move a container by podman's own commands, and return it as it is on the target."""
    script = EXPORT_IMPORT.format(archive=ARCHIVE, name=container.name, target=target.name)
    container.node.run(["bash", "-c", script], timeout=300)
    return container.on(target)


def gaps_of(
    hosts: Hosts, runs: int, redis: Redis[Any], ways: list[Callable[[Any], Any]]
) -> list[list[float]]:
    """Move redis in each of the ways in turn, so often, and remove it.

    A way takes the container and returns it where it is then. The result has the client's worst
    gaps in ms, by way.
    """
    gaps: list[list[float]] = [[] for _ in ways]
    container = redis.container
    with redis.client() as client:
        for run in range(runs):
            for kind, way in enumerate(ways):
                client.mark("before")
                container = way(container)
                time.sleep(SETTLE_S)
                gaps[kind].append(float(client.mark("after")["worst_gap_ms"]))
                print(f"  run {run + 1}: {gaps[kind][-1]:.1f} ms", file=sys.stderr)
        last_word(client)
    for node in hosts.both:
        container.on(node).remove()
    return gaps


def start(hosts: Hosts, engine: str) -> Redis[Any]:
    """Start redis in a container of that engine's on alpha, with data."""
    if engine == "crun":
        redis: Redis[Any] = start_redis(hosts.alpha, runtime="crun")
    else:
        give_redis(hosts.both, engine)
        container = EngineContainer.start(
            hosts.alpha, engine, "redis", REDIS_IMAGE, REDIS, address=ADDRESS
        )
        redis = Redis(container=container).ready()
    redis.fill(MIB)
    return redis


def engine_case(hosts: Hosts, runs: int, engine: str) -> dict[str, Any]:
    """Measure redis with 128 MiB in a container of that engine's."""
    reports: list[Report] = []

    def by_tool(container: Any) -> Any:
        moved, report, _ = move(hosts, container)
        reports.append(report)
        return moved

    def by_podman(container: Any) -> Any:
        return export_import(container, hosts.other(container.node))

    def by_script(container: Any) -> Any:
        return baseline.move(container, hosts.other(container.node))

    redis = start(hosts, engine)
    if engine == "podman":
        ours, theirs = gaps_of(hosts, runs, redis, [by_tool, by_podman])
    else:
        [ours] = gaps_of(hosts, runs, redis, [by_tool])
        [theirs] = gaps_of(hosts, runs, filled_redis(hosts, MIB), [by_script])
    exported = "podman checkpoint --export, restore --import"
    return {
        "blackout_ms": spread(ours),
        "downtime_ms": spread([report["downtime_us"] / 1000 for report in reports]),
        "baseline": exported if engine == "podman" else "runc, by script",
        "baseline_blackout_ms": spread(theirs),
        "ratio": round(statistics.median(theirs) / statistics.median(ours), 2),
    }
