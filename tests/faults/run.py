"""The run of the fault matrix on a rig of its own."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.faults.cases import Case
from tests.faults.judge import Scene, elapsed_s
from tests.rig import EngineContainer, Redis, Rig
from tests.rig.hosts import Hosts
from tests.rig.services import REDIS_IMAGE, give_redis
from tests.rig.workload import ADDRESS, REDIS, start_redis


def run(rig: Rig, cases: Sequence[Case], results: Path | None) -> bool:
    """Try the cases one after the other, and return whether anything was wrong.

    Each verdict is a line of JSON in `results`. Cases that have a line there already are not tried
    again.
    """
    done = tried(results)
    wrong = False
    hosts = Hosts.of(rig)
    left = [case for case in cases if case.number not in done]
    scene: Scene | None = None
    outcomes: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        for case in left:
            if scene is None or scene.engine != case.engine:
                stack.close()
                scene = stack.enter_context(stage(hosts, case.engine))
            began_s = time.monotonic()
            verdict = scene.judge(case)
            line = {**verdict.plain(), "seconds": elapsed_s(began_s)}
            if results is not None:
                with results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            print(f"{case}: {'; '.join(verdict.faults) or 'well'}", flush=True)
            wrong |= bool(verdict.faults)
            outcomes.update([fault.split(":")[0].split(" on ")[0] for fault in verdict.faults])
            outcomes["tries"] += 1
            if verdict.faults or not scene.back(verdict.running):
                stack.close()
                scene = None
    print(json.dumps(dict(outcomes)))
    return wrong


def tried(results: Path | None) -> set[int]:
    """Return the numbers of the cases that have a verdict in a file of results."""
    if results is None or not results.exists():
        return set()
    return {json.loads(line)["case"] for line in results.read_text().splitlines()}


@contextlib.contextmanager
def stage(hosts: Hosts, engine: str) -> Iterator[Scene]:
    """Have redis in a container of the engine's on alpha, for the length of the block."""
    redis: Redis[Any]
    if engine == "runc":
        redis = start_redis(hosts.alpha)
    else:
        give_redis(hosts.both, engine)
        container = EngineContainer.start(
            hosts.alpha, engine, "redis", REDIS_IMAGE, REDIS, address=ADDRESS
        )
        redis = Redis(container=container).ready()
    try:
        yield Scene(hosts, redis, engine)
    finally:
        for node in hosts.both:
            try:
                redis.on(node).remove()
            except Exception as error:  # noqa: BLE001  (the next stage shows whether it matters)
                print(f"not removed: {error}", file=sys.stderr)
