"""The cases of the fault matrix: which fault, at which point of a move, with which engine."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

ENGINES = ("runc", "podman", "docker")
#: States of the coordinator (migrate/decisions/state.py) in which it waits for the fault.
POINTS = ("PREPARED", "ARMED", "FROZEN", "HELD", "KILLING", "KILLED", "RESUMED")
SIGNALS = ("KILL", "STOP", "TERM")
#: The processes of a move, with the node on which each is.
VICTIMS = {
    "coordinator": "alpha",
    "guardian": "alpha",
    "CRIU of the dump": "alpha",
    "engine's checkpoint": "alpha",
    "engine of the source": "alpha",
    "agent": "beta",
    "keeper": "beta",
    "CRIU of the restore": "beta",
    "engine's restore": "beta",
    "engine of the target": "beta",
}
#: Those of docker's processes, each alone. "engine" above is all of them.
DOCKERS = {
    f"{program} of the {host}": node
    for program in ("dockerd", "containerd", "shim")
    for host, node in (("source", "alpha"), ("target", "beta"))
}
#: Faults of the link between the hosts, all of which end by themselves.
LINK = ("cut 3 s", "cut 20 s", "deaf target 20 s", "deaf source 20 s", "1 Mbit/s", "200 ms")
OTHERS = ("target's disk full", "killed by somebody", "stopped by somebody", "a second move")
FAULTS = (
    *(f"SIG{signal} of {victim}" for signal in SIGNALS for victim in VICTIMS),
    *LINK,
    *OTHERS,
)
#: What happens to the next frame on an intact connection, sent by or to the coordinator.
FRAMES = tuple(
    f"{what} frame {way}"
    for what in ("corrupted", "repeated", "dropped")
    for way in ("to the target", "from the target")
)
HOSTS = {"source": "alpha", "target": "beta"}
#: Faults of a whole host; those of memory, disk and the engine's lock end after ten seconds.
HOST_FAULTS = (
    *(f"{host} rebooted" for host in HOSTS),
    *(f"{host}'s disk hangs" for host in HOSTS),
    *(f"{host}'s storage is locked" for host in HOSTS),
    "target's RAM full",
    "agent killed for memory",
)
#: Faults that were thought of later. A case keeps its number.
LATER_FAULTS = (*FRAMES, *HOST_FAULTS, "restarted by somebody")
#: What is tried with a container that its engine starts again, also when the host starts.
RESTARTING = ", restart=always"
RESTARTING_FAULTS = tuple(
    f"{what}{RESTARTING}"
    for what in ("source rebooted", "target rebooted", "ended by itself", "stopped by somebody")
)
DOCKER_FAULTS = tuple(f"SIG{signal} of {victim}" for signal in SIGNALS for victim in DOCKERS)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case. `number` is its place in the matrix, by which it can be tried again."""

    number: int
    engine: str
    point: str
    fault: str

    @property
    def what(self) -> str:
        """The fault, without what is said of the container."""
        return self.fault.removesuffix(RESTARTING)

    @property
    def restarting(self) -> bool:
        """Whether the container's engine starts it again when it ends."""
        return self.fault.endswith(RESTARTING)

    @property
    def anew(self) -> bool:
        """Whether the container may have been started anew, with other data."""
        return self.what.startswith("restarted") or self.restarting

    def __str__(self) -> str:
        return f"case {self.number}: {self.engine}, {self.point}: {self.fault}"


def matrix() -> list[Case]:
    """Return all cases, each engine with each point and each fault."""
    combined = [
        *itertools.product(ENGINES, POINTS, FAULTS),
        *itertools.product(ENGINES, POINTS, LATER_FAULTS),
        *itertools.product(["docker"], POINTS, DOCKER_FAULTS),
        *itertools.product(["podman", "docker"], POINTS, RESTARTING_FAULTS),
    ]
    return [
        Case(number=number, engine=engine, point=point, fault=fault)
        for number, (engine, point, fault) in enumerate(combined)
    ]


def drawn(seed: int, count: int, engines: tuple[str, ...] = ENGINES) -> list[Case]:
    """Return `count` cases of some engines. The same seed draws the same cases.

    All cases are drawn once before any is drawn again. Cases with the same container come one after
    the other, because a node that has to change engines takes its time.
    """
    chance = random.Random(seed)  # noqa: S311  (the draw is to be the same each time)
    found: list[Case] = []
    while len(found) < count:
        cases = [case for case in matrix() if case.engine in engines]
        chance.shuffle(cases)
        found += cases[: count - len(found)]
    return sorted(found, key=lambda case: (ENGINES.index(case.engine), case.restarting))
