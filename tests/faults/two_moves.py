"""Two moves of one container at once: one of them moves it, the other is refused and harms nothing.

The moves begin at random offsets. The container wanders over three nodes, try after try, while a
client counts on one TCP connection.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.rig import Container, Node, Redis, Rig
from tests.rig.clients import Client
from tests.rig.workload import ADDRESS, REDIS

NODES = 3
LATEST_S = 3.0
#: A refusal comes within so long, by the tool's own clock. How long Python takes to start depends
#: on the machine, and is not counted.
REFUSED_WITHIN_S = 2.0
MOVE_TIMEOUT_S = 120.0
REFUSALS = {CODES[errors.AlreadyMoving], CODES[errors.NoSuchContainer], CODES[errors.NotRunning]}
#: Which two moves: (from, to) of each, as places in a turn of the three nodes that begins with the
#: container's own.
CONTESTS: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "same target": ((0, 1), (0, 1)),
    "other target": ((0, 1), (0, 2)),
    "other side": ((0, 1), (1, 2)),
}
#: Takes the path out of a bundle's network namespace: the runtime makes one then, and CRIU moves
#: it as a whole.
OWN_NETWORK = """
import json, sys
config = json.load(open(sys.argv[1]))
for namespace in config["linux"]["namespaces"]:
    namespace.pop("path", None)
json.dump(config, open(sys.argv[1], "w"))
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of one of the two moves.

    `seconds` is how long the command took, and `said` its last line on standard error.
    """

    status: int
    seconds: float
    report: Mapping[str, Any]
    said: str

    @property
    def own_seconds(self) -> float:
        """The time that the tool took, by its own clock."""
        return int(self.report["total_us"]) / 1e6

    @property
    def left_target_at_ns(self) -> int:
        """The time when the target was asked to finish, in ns since the epoch.

        Nobody may move the container on before that.
        """
        clean_up = next(phase for phase in self.report["phases"] if phase["name"] == "clean up")
        return int(self.report["started_unix_ns"]) + int(clean_up["start_us"]) * 1000


def one_after_the_other(first: Outcome, second: Outcome) -> bool:
    """Return whether the second move began when the first had ended.

    The container was on the source of the second move then.
    """
    return bool(second.report["started_unix_ns"] >= first.left_target_at_ns)


def faults(first: Outcome, second: Outcome, running: Sequence[str], *, in_turn: bool) -> list[str]:
    """Return what was wrong with a try.

    `running` are the nodes on which the container runs afterwards. `in_turn` says that both moves
    may succeed, one after the other.
    """
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
    """redis, which is moved about among the nodes of a rig.

    If it is not `connected`, it owns a network namespace that leads nowhere, and has no client.
    """

    def __init__(self, rig: Rig, *, connected: bool) -> None:
        self._nodes = list(rig.nodes)
        container = self._nodes[0].start_container("redis", ip=ADDRESS, argv=REDIS)
        self._redis = Redis(container=container)
        self.client: Client | None = None
        if connected:
            self.client = self._redis.ready().client()
        else:
            self._own_network(container)

    def _own_network(self, container: Container) -> None:
        """Start the container again, in a network namespace that the runtime makes."""
        node, bundle = container.node, str(container.bundle)
        node.run(["runc", "delete", "--force", "redis"])
        container.unplug()
        node.run(["python3", "-c", OWN_NETWORK, f"{bundle}/config.json"])
        container.leave("run", "-d", "--bundle", bundle)

    def running(self) -> list[str]:
        """Return the nodes on which the container runs."""
        return [node.name for node in self._nodes if self._redis.on(node).status == "running"]

    def turn(self) -> list[Node]:
        """Return the nodes in their order, from the one on which the container runs."""
        (at,) = self.running()
        place = [node.name for node in self._nodes].index(at)
        return self._nodes[place:] + self._nodes[:place]

    def contest(self, way: str, offset_s: float) -> tuple[Outcome, Outcome]:
        """Start two moves, the second so much later, and return how both ended."""
        turn = self.turn()
        (source, target), (source2, target2) = CONTESTS[way]
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(move, turn[source], turn[target])
            time.sleep(offset_s)
            second = threads.submit(move, turn[source2], turn[target2])
            return first.result(), second.result()

    def remove(self) -> None:
        """Remove the container from all nodes."""
        for node in self._nodes:
            self._redis.on(node).remove()


@contextlib.contextmanager
def wandering(rig: Rig, *, connected: bool) -> Iterator[Wanderer]:
    """Have such a container on a rig for the length of the block."""
    container = Wanderer(rig, connected=connected)
    with contextlib.ExitStack() as stack:
        stack.callback(container.remove)
        if container.client is not None:
            stack.enter_context(container.client)
        yield container


def move(source: Node, target: Node) -> Outcome:
    """Have the tool move the container, and return how that ended."""
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


@dataclass(kw_only=True)
class Tally:
    """The results of the tries of one contest so far."""

    won: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    refusals: list[Outcome] = field(default_factory=list)
    worst_gap_ms: float = 0.0
    faults: list[str] = field(default_factory=list)

    def count(self, outcomes: tuple[Outcome, Outcome]) -> None:
        """Count which of the two moves moved the container, and why the other did not."""
        for name, outcome in zip(("first", "second"), outcomes, strict=True):
            if outcome.status == 0:
                self.won[name] += 1
            else:
                self.refused[str(outcome.report.get("error_kind"))] += 1
                self.refusals.append(outcome)

    def to_json(self) -> dict[str, Any]:
        """Return the tally as JSON has it."""
        own = [outcome.own_seconds for outcome in self.refusals]
        commands = [outcome.seconds for outcome in self.refusals]
        return {
            "moved": dict(self.won),
            "refused": dict(self.refused),
            "slowest_refusal_s": round(max(own, default=0.0), 2),
            "slowest_refused_command_s": round(max(commands, default=0.0), 2),
            "worst_gap_ms": round(self.worst_gap_ms, 1),
            "faults": self.faults,
        }


def run(rig: Rig, way: str, tries: int, seed: int, *, connected: bool = True) -> dict[str, Any]:
    """Try a contest so often, and return what came of it, as JSON has it.

    `faults` is empty if all is well.
    """
    chance = random.Random(f"{seed} {way} {connected}")  # noqa: S311  (not a secret)
    tally = Tally()
    with wandering(rig, connected=connected) as container:
        for number in range(tries):
            offset_s = chance.uniform(0, LATEST_S)
            outcomes = container.contest(way, offset_s)
            running = container.running()
            tally.count(outcomes)
            wrong = faults(*outcomes, running, in_turn=way == "other side")
            if container.client is not None:
                window = container.client.mark(str(number))
                tally.worst_gap_ms = max(tally.worst_gap_ms, window["worst_gap_ms"])
                if not window["contiguous"] or not window["count"]:
                    wrong.append(f"the client's connection: {window}")
            apart = f"try {number}, {offset_s:.3f} s apart"
            tally.faults += [f"{apart}: {fault}" for fault in wrong]
            if len(running) != 1:
                break  # there is nothing left to contest
        if container.client is not None and (error := container.client.finish()["error"]):
            tally.faults.append(f"the client ended with {error}")
    return {
        "contest": way,
        "connected": connected,
        "tries": tries,
        "seed": seed,
        **tally.to_json(),
    }
