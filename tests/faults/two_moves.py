"""Two moves of one container at once, at random offsets: one of them moves it, the other is refused and harms nothing.

The container wanders over three nodes, try after try, while the 1 ms client counts on one TCP connection.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.clients import REDIS_PORT, RedisClient, ask
from tests.rig import Node, Rig, until

NODES = 3
ADDRESS = "10.77.0.50"
REDIS = ["redis-server", "--bind", "0.0.0.0", "--save", "", "--protected-mode", "no"]  # noqa: S104 - in the rig
LATEST_S = 3.0
#: A refusal comes within so long, by the tool's own clock: how long Python takes to start is the machine's affair.
REFUSED_WITHIN_S = 2.0
MOVE_TIMEOUT_S = 120.0
REFUSALS = {CODES[errors.AlreadyMoving], CODES[errors.NoSuchContainer], CODES[errors.NotRunning]}
#: Which two moves: (from, to) of each, as places in a turn of the three nodes that begins with the container's own.
CONTESTS: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "same target": ((0, 1), (0, 1)),
    "other target": ((0, 1), (0, 2)),
    "other side": ((0, 1), (1, 2)),
}
#: Takes the path out of a bundle's network namespace: the runtime makes one then, and CRIU moves it whole.
OWN_NETWORK = """
import json, sys
config = json.load(open(sys.argv[1]))
for namespace in config["linux"]["namespaces"]:
    namespace.pop("path", None)
json.dump(config, open(sys.argv[1], "w"))
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One of the two moves: its exit status, how long the command took, its report, its last line of complaint."""

    status: int
    seconds: float
    report: Mapping[str, Any]
    said: str

    @property
    def own_seconds(self) -> float:
        """How long the tool took, by its own clock."""
        return int(self.report["total_us"]) / 1e6

    @property
    def left_target_at_ns(self) -> int:
        """When the target was asked to finish, in ns since the epoch: before that nobody may move the container on."""
        clean_up = next(phase for phase in self.report["phases"] if phase["name"] == "clean up")
        return int(self.report["started_unix_ns"]) + int(clean_up["start_us"]) * 1000


def one_after_the_other(first: Outcome, second: Outcome) -> bool:
    """Whether the second began when the first had the container where the second's own source is."""
    return bool(second.report["started_unix_ns"] >= first.left_target_at_ns)


def faults(first: Outcome, second: Outcome, running: Sequence[str], *, in_turn: bool) -> list[str]:
    """What was wrong with a try. `running`: nodes where the container runs afterwards; `in_turn`: both may succeed."""
    found = []
    if len(running) != 1:
        found.append(f"{'doubled: ' + ', '.join(running) if running else 'lost'}")
    moved = [outcome for outcome in (first, second) if outcome.status == 0]
    if len(moved) == 2 and not (in_turn and one_after_the_other(first, second)):
        found.append("both say that they moved it")
    if not moved:
        found.append(f"neither moved it: {first.said} / {second.said}")
    for outcome in (first, second):
        if outcome.status and outcome.status not in REFUSALS:
            found.append(f"exit status {outcome.status}: {outcome.said}")
        elif outcome.status and outcome.own_seconds > REFUSED_WITHIN_S:
            found.append(f"refused after {outcome.own_seconds:.1f} s: {outcome.said}")
    return found


class Wanderer:
    """redis, moved about among the nodes of a rig. Not `connected`, it owns a network namespace that leads nowhere."""

    def __init__(self, rig: Rig, *, connected: bool) -> None:
        self._nodes = list(rig.nodes)
        self._container = self._nodes[0].start_container("redis", ip=ADDRESS, argv=REDIS)
        self.client: RedisClient | None = None
        if connected:
            until(
                lambda: ask(rig.switch, ADDRESS, REDIS_PORT, "PING") == "+PONG", "redis to answer"
            )
            self.client = RedisClient(rig.switch, ADDRESS)
        else:
            self._without_path()

    def _without_path(self) -> None:
        node, bundle = self._nodes[0], str(self._container.bundle)
        node.run(["runc", "delete", "--force", "redis"])
        self._container.unplug()
        node.run(["python3", "-c", OWN_NETWORK, f"{bundle}/config.json"])
        self._container.leave("run", "-d", "--bundle", bundle)

    def running(self) -> list[str]:
        """The nodes where it runs."""
        return [
            node.name
            for node in self._nodes
            if replace(self._container, node=node).status == "running"
        ]

    def turn(self) -> list[Node]:
        """The nodes, its own first."""
        (at,) = self.running()
        place = [node.name for node in self._nodes].index(at)
        return self._nodes[place:] + self._nodes[:place]

    def contest(self, way: str, offset_s: float) -> tuple[Outcome, Outcome]:
        """Start two moves, the second so much later."""
        turn = self.turn()
        (source, target), (source2, target2) = CONTESTS[way]
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(move, turn[source], turn[target])
            time.sleep(offset_s)
            second = threads.submit(move, turn[source2], turn[target2])
            return first.result(), second.result()

    def remove(self) -> None:
        """From wherever it is."""
        for node in self._nodes:
            replace(self._container, node=node).remove()


@contextlib.contextmanager
def wandering(rig: Rig, *, connected: bool) -> Iterator[Wanderer]:
    """A container for the length of the block."""
    container = Wanderer(rig, connected=connected)
    with contextlib.ExitStack() as stack:
        stack.callback(container.remove)
        if container.client is not None:
            stack.enter_context(container.client)
        yield container


def move(source: Node, target: Node) -> Outcome:
    """Have the tool move it, to the end."""
    began = time.monotonic()
    done = source.run(
        ["migrate", "redis", target.name, "--json"], check=False, timeout=MOVE_TIMEOUT_S
    )
    seconds = time.monotonic() - began
    said = done.stderr.strip().splitlines()
    report = json.loads(done.stdout) if done.stdout else {}
    return Outcome(
        status=done.returncode, seconds=seconds, report=report, said=said[-1] if said else ""
    )


def run(rig: Rig, way: str, tries: int, seed: int, *, connected: bool = True) -> dict[str, Any]:
    """So many tries of a contest; what came of them, as JSON has it. `faults` is empty if all is well."""
    chance = random.Random(f"{seed} {way} {connected}")  # noqa: S311  (not a secret)
    found: list[str] = []
    won, refused, refusals, worst_gap_ms = Counter[str](), Counter[str](), list[Outcome](), 0.0
    with wandering(rig, connected=connected) as container:
        for number in range(tries):
            offset_s = chance.uniform(0, LATEST_S)
            outcomes = container.contest(way, offset_s)
            running = container.running()
            wrong = faults(*outcomes, running, in_turn=way == "other side")
            for name, outcome in zip(("first", "second"), outcomes, strict=True):
                if outcome.status == 0:
                    won[name] += 1
                else:
                    refused[str(outcome.report.get("error_kind"))] += 1
                    refusals.append(outcome)
            if container.client is not None:
                window = container.client.mark(str(number))
                worst_gap_ms = max(worst_gap_ms, window["worst_gap_ms"])
                if not window["contiguous"] or not window["count"]:
                    wrong.append(f"the client's connection: {window}")
            found += [f"try {number}, {offset_s:.3f} s apart: {fault}" for fault in wrong]
            if len(running) != 1:
                break  # there is nothing left to contest
        if container.client is not None and (error := container.client.finish()["error"]):
            found.append(f"the client ended with {error}")
    return {
        "contest": way,
        "connected": connected,
        "tries": tries,
        "seed": seed,
        "moved": dict(won),
        "refused": dict(refused),
        "slowest_refusal_s": round(
            max((outcome.own_seconds for outcome in refusals), default=0.0), 2
        ),
        "slowest_refused_command_s": round(
            max((outcome.seconds for outcome in refusals), default=0.0), 2
        ),
        "worst_gap_ms": round(worst_gap_ms, 1),
        "faults": found,
    }
