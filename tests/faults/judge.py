"""One try of the fault matrix: a move with a fault in it, and what came of it, as seen outside."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.faults.cases import POINTS, Case
from tests.faults.inject import OBEYED, inject
from tests.faults.injection import Injection, sh
from tests.rig import Node, Redis
from tests.rig.errors import RigError
from tests.rig.hosts import Hosts, tool_command
from tests.rig.traces import Traces, traces
from tests.rig.wait import until
from tests.tools.at_state import WAITS

#: The bound of the freeze in the tries, in seconds.
MAX_FROZEN_S = 3
#: How long a move may take to come to its point, and then to its end with all that goes on by
#: itself after it.
POINT_S, END_S, SETTLED_S = 40.0, 240.0, 60.0
#: How long the container is looked at to see whether it runs.
LOOK_S = 5.0
DATA_MIB = 4
#: Ids that engines give to what they make, and numbers of descriptors and processes.
IDS = re.compile(r"veth[0-9a-f]{7}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{12,64}|\d+")
#: The command that lists the containers of podman and docker, each of which has a directory.
CONTAINERS = (
    "find /var/lib/docker/containers /var/lib/containers/storage/overlay-containers"
    " -mindepth 1 -maxdepth 1 -type d"
)
#: How long traces may take to go.
LEFT_S = 5.0
NOT_TRIED = "the move did not come to its point"
#: Exit codes with which the tool says that it does not know, and how to end it.
UNDECIDED = {CODES[errors.Undecided], CODES[errors.ResumeFailed]}
ON_THE_TARGET = {0, CODES[errors.LeftBehind]}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of one try. `faults` names what was wrong, and is empty if all was right."""

    case: Case
    hit: str
    status: int | None
    said: str
    running: tuple[str, ...]
    by_hand: bool
    frozen_ms: float | None
    faults: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """Return the verdict as one JSON object."""
        return {
            "case": self.case.number,
            "engine": self.case.engine,
            "point": self.case.point,
            "fault": self.case.fault,
            "hit": self.hit,
            "status": self.status,
            "said": self.said,
            "running": self.running,
            "by_hand": self.by_hand,
            "frozen_ms": self.frozen_ms,
            "faults": self.faults,
        }


class Scene:
    """A container with redis in it, on either host, and how both hosts look when all is well."""

    def __init__(self, hosts: Hosts, redis: Redis[Any], engine: str, *, restarting: bool) -> None:
        self.hosts, self._redis, self.engine, self.restarting = hosts, redis, engine, restarting
        redis.fill(DATA_MIB)
        self._digest = redis.digest()
        # A move each way, so that what stays for ever on a host is there.
        self._clean: dict[str, Mapping[str, Traces]] = {}
        for _ in range(2):
            self._redis, _report = hosts.move(self._redis)
            self._clean[self._redis.node.name] = {n.name: all_traces(n) for n in hosts.both}

    def at(self) -> tuple[str, ...]:
        """Return the names of the hosts on which redis runs, by their lists of processes."""
        return tuple(
            node.name
            for node in self.hosts.both
            if any(
                not state.startswith(("Z", "T", "t", "X"))
                for state in sh(node, "ps -C redis-server -o stat=").split()
            )
        )

    def look(self) -> tuple[str, ...]:
        """Return the same once it runs somewhere, or after LOOK_S."""
        with contextlib.suppress(RigError):
            until(lambda: len(self.at()) == 1, "it to run", timeout_s=LOOK_S)
        return self.at()

    def judge(self, case: Case) -> Verdict:
        """Try a case, which begins with the container on alpha, and say what came of it."""
        with self._redis.client() as client:
            status, said, injection = self._move(case)
            if case.what.endswith("rebooted"):
                for node in self.hosts.both:  # as at the next start
                    sh(node, "migratectl recover")
            with contextlib.suppress(RigError):
                until(self._is_quiet, "it to end by itself", timeout_s=SETTLED_S)
            running = self.look()
            by_hand = status in UNDECIDED and not running
            if by_hand:
                sh(self.hosts.alpha, "migratectl recover")
                running = self.look()
            seen = client.finish()
        faults = [*self._of_the_end(case, injection, status, running)]
        if len(running) == 1:
            faults += self._of_what_runs(case, running[0], seen)
        return Verdict(
            case=case,
            hit=injection.what,
            status=status,
            said=said,
            running=running,
            by_hand=by_hand,
            frozen_ms=seen.get("worst_gap_ms"),
            faults=tuple(faults),
        )

    def _move(self, case: Case) -> tuple[int | None, str, Injection]:
        """Start a move, inject the fault at its point, and return how the move ended."""
        options = ["--", "--engine", case.engine, "--max-frozen", str(MAX_FROZEN_S)]
        alpha = self.hosts.alpha
        sh(alpha, f"rm -f {WAITS}")
        # The shell waits for the end alone: what enters the node would stop with a stopped program.
        argv = ["sh", "-c", '"$@"; exit $?', "sh"]
        move = alpha.popen(
            [*argv, *tool_command("at_state", "wait", case.point, *options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        injection = Injection(what=NOT_TRIED)
        with contextlib.suppress(RigError):
            told = until(lambda: sh(alpha, f"cat {WAITS}"), "the point", timeout_s=POINT_S)
            injection = inject(case, self.hosts, json.loads(told))
        sh(alpha, f"rm -f {WAITS}")
        try:
            said, _ = move.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            sh(alpha, "pkill -KILL -f tests.tools.at_state")
            said, _ = move.communicate()
            return None, said.strip()[-600:], injection
        finally:
            injection.end()
        status = move.returncode - 128 if move.returncode > 128 else move.returncode
        lines = said.strip().splitlines() or [""]
        return (-status if move.returncode > 128 else status), lines[-1][:600], injection

    def _is_quiet(self) -> bool:
        """Return whether nothing of a move goes on by itself any more."""
        return not any(
            each["condition"] in ("under way", "cut off")
            for node in self.hosts.both
            for each in statuses(node)
        )

    def _of_the_end(
        self, case: Case, injection: Injection, status: int | None, running: tuple[str, ...]
    ) -> list[str]:
        wanted_dead = injection.hit and ends_it(case, injection.what)
        faults = [NOT_TRIED] if injection.what == NOT_TRIED else []
        if status is None:
            faults.append("stuck: the tool did not end")
        if len(running) > 1:
            faults.append("doubled")
        if not running and not wanted_dead:
            faults.append("lost")
        if status in ON_THE_TARGET and running != ("beta",) and not wanted_dead:
            faults.append(f"lied: exit code {status}")
        if status is not None and 50 <= status < 60 and status not in ON_THE_TARGET:
            ended = status == CODES[errors.ContainerEnded]
            if running != (() if ended and not case.restarting else ("alpha",)) and not wanted_dead:
                faults.append(f"lied: exit code {status}")
        if case.what == "stopped by somebody" and OBEYED in injection.what and "alpha" in running:
            faults.append("undone: somebody has stopped it")
        return faults

    def _of_what_runs(self, case: Case, host: str, seen: Mapping[str, Any]) -> list[str]:
        """Look at the one container that runs: its answers, its memory, and what is beside it."""
        redis = self._redis.on(next(node for node in self.hosts.both if node.name == host))
        faults, anew = [], case.anew
        try:
            redis.ready()
            if redis.digest() != self._digest and not anew:
                faults.append("wrong_memory: other data")
        except (RigError, OSError, AssertionError) as error:
            faults.append(f"stuck: redis does not answer ({error})")
        if not seen["contiguous"] and not anew:
            faults.append("wrong_memory: the client's counter")
        for node in self.hosts.both:  # the next start on each host
            sh(node, "migratectl recover")
        for node in self.hosts.both:
            left = dict(left_on(node, self._clean[host][node.name]))
            if anew:  # podman starts a conmon with other words than it restores one
                others = [each for each in left.get("processes", ()) if "/conmon " not in each]
                left = {**left, "processes": others}
            if any(left.values()):
                faults.append(f"leftovers on {node.name}: {json.dumps(left)[:600]}")
        return faults

    def back(self, running: tuple[str, ...]) -> bool:
        """Have the container on alpha alone again, and return whether that went well."""
        if running == ("beta",):
            self.hosts.migrate(self.hosts.beta, "redis", "alpha")
        return self.at() == ("alpha",)


def ends_it(case: Case, hit: str) -> bool:
    """Return whether a case's fault has the container ended, whatever the tool does.

    dockerd ends its own on SIGTERM, and conmon hands the signal on to the container. A source that
    fails takes the container along until the kill is on its disk, and a target from the kill on.
    `hit` has what the kernel has killed for memory (_killed_for_memory).
    """
    at = POINTS.index(case.point)
    by_engine = case.engine != "runc" and case.fault.startswith("SIGTERM of engine of")
    if "task=redis-server" in hit:
        return True
    # The agent and its keeper, which alone hold the container.
    if hit.count("task=python3") > 1 and at >= POINTS.index("KILLING"):
        return True
    # containerd ends the container of a shim that has ended. dockerd ends its own on SIGTERM, and
    # when it starts after a crash.
    if re.match("SIG(KILL|TERM) of (dockerd|shim) of the source|SIGTERM of dockerd", case.fault):
        return True
    if re.match("SIG(KILL|TERM) of (dockerd|shim) of the target", case.fault):
        return at >= POINTS.index("RESUMED")
    if "task=dockerd" in hit and at >= POINTS.index("RESUMED"):
        return True
    if case.what == "source rebooted":
        return at <= POINTS.index("KILLED") and not case.restarting
    if case.what == "target rebooted":
        return at >= POINTS.index("KILLING")
    return by_engine or case.what.endswith("by somebody")


def left_on(node: Node, clean: Traces) -> Traces:
    """Return what is on a node and was not when all was well, once it has stayed for a while.

    An engine gives a container's namespaces, layers and processes new ids with each move.
    """
    found: Traces = {}

    def is_clean() -> bool:
        nonlocal found
        now = all_traces(node)
        new = {kind: plain(now[kind]) - plain(clean[kind]) for kind in now}
        found = {kind: sorted(lines.elements()) for kind, lines in new.items() if lines}
        return not found

    with contextlib.suppress(RigError):
        until(is_clean, "traces to go", timeout_s=LEFT_S)
    return found


def all_traces(node: Node) -> Traces:
    """Return the traces on a node, together with the containers that its engines know."""
    return {**traces(node), "containers": sh(node, CONTAINERS).split()}


def plain(lines: Sequence[str]) -> Counter[str]:
    """Return how often each line is there, without ids and numbers."""
    return Counter(IDS.sub("*", line) for line in lines)


def statuses(node: Node) -> list[Mapping[str, Any]]:
    """Return the migrations of a node, as `migratectl status` lists them."""
    found = sh(node, "migratectl status --json")
    return list(json.loads(found)["migrations"]) if found else []


def elapsed_s(began_s: float) -> float:
    """Return the seconds since a time of time.monotonic()."""
    return round(time.monotonic() - began_s, 1)
