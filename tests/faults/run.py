"""The run of the fault matrix, on rigs of its own."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.faults import host_faults
from tests.faults.cases import Case
from tests.faults.injection import sh
from tests.faults.judge import Scene, Verdict, elapsed_s
from tests.rig import EngineContainer, Redis, Rig
from tests.rig.engine import NETWORK
from tests.rig.hosts import Hosts
from tests.rig.services import REDIS_IMAGE, give_redis
from tests.rig.workload import ADDRESS, REDIS, start_redis


def run(rigs: Sequence[Rig], cases: Sequence[Case], results: Path | None) -> bool:
    """Try the cases, on all rigs at the same time, and return whether anything was wrong.

    Each verdict is a line of JSON in `results`. Cases that have a line there already are not tried
    again.
    """
    done = tried(results)
    tries = Tries([case for case in cases if case.number not in done], results)
    with ThreadPoolExecutor(len(rigs)) as pool:
        for each in [pool.submit(_on_one, rig, tries) for rig in rigs]:
            each.result()
    print(json.dumps(dict(tries.outcomes)))
    return tries.wrong


class Tries:
    """The cases that are left to be tried, and what came of the others."""

    def __init__(self, cases: Sequence[Case], results: Path | None) -> None:
        self._left, self._results, self._lock = iter(cases), results, threading.Lock()
        self.outcomes: Counter[str] = Counter()
        self.wrong = False

    def take(self) -> Case | None:
        """Return the next case, or None."""
        with self._lock:
            return next(self._left, None)

    def judged(self, verdict: Verdict, seconds: float) -> None:
        """Tell and keep what came of a case."""
        with self._lock:
            if self._results is not None:
                with self._results.open("a") as file:
                    file.write(json.dumps({**verdict.plain(), "seconds": seconds}) + "\n")
            print(f"{verdict.case}: {'; '.join(verdict.faults) or 'well'}", flush=True)
            self.wrong |= bool(verdict.faults)
            kinds = [fault.split(":")[0].split(" on ")[0] for fault in verdict.faults]
            self.outcomes.update(["tries", *kinds])


def _on_one(rig: Rig, tries: Tries) -> None:
    """Try cases on a rig until none is left."""
    hosts = Hosts.of(rig)
    scene: Scene | None = None
    with contextlib.ExitStack() as stack:
        while (case := tries.take()) is not None:
            if scene is None or (scene.engine, scene.restarting) != (case.engine, case.restarting):
                stack.close()
                scene = stack.enter_context(stage(hosts, case.engine, restarting=case.restarting))
            began_s = time.monotonic()
            verdict = scene.judge(case)
            tries.judged(verdict, elapsed_s(began_s))
            # A container that was started anew has other data, and other processes of its engine.
            if verdict.faults or case.anew or not scene.back(verdict.running):
                stack.close()
                scene = None


def tried(results: Path | None) -> set[int]:
    """Return the numbers of the cases that have a verdict in a file of results."""
    if results is None or not results.exists():
        return set()
    return {json.loads(line)["case"] for line in results.read_text().splitlines()}


@contextlib.contextmanager
def stage(hosts: Hosts, engine: str, *, restarting: bool) -> Iterator[Scene]:
    """Have redis in a container of the engine's on alpha, for the length of the block.

    `restarting`: the engine starts the container again when it ends.
    """
    host_faults.give_disks(hosts)
    redis: Redis[Any]
    if engine == "runc":
        redis = start_redis(hosts.alpha)
    else:
        give_redis(hosts.both, engine)
        options = ["--restart=always"] if restarting else []
        container = EngineContainer.start(
            hosts.alpha, engine, "redis", REDIS_IMAGE, REDIS, address=ADDRESS, options=options
        )
        redis = Redis(container=container).ready()
    try:
        yield Scene(hosts, redis, engine, restarting=restarting)
    finally:
        for node in hosts.both:
            try:
                redis.on(node).remove()
            except Exception as error:  # noqa: BLE001  (the next stage shows whether it matters)
                print(f"not removed: {error}", file=sys.stderr)
            # A docker that was killed together with its shim knows nothing of the container.
            sh(node, "pkill -KILL -x redis-server")
            if engine == "docker":  # nor does it give the network's address back
                sh(node, f"docker network disconnect --force {NETWORK} redis")
        host_faults.take_disks(hosts)
