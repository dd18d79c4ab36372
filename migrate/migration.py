"""One migration: what the preflight found out about both hosts, and what all phases share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from checkpoint.criu.roles import DumpRole
from checkpoint.engines.base import Container, Engine
from checkpoint.host.processes import Init
from checkpoint.undo import Undo
from migrate.agent.client import AgentClient
from migrate.decisions.clock import Offset
from migrate.decisions.compatibility import Facts
from migrate.decisions.prediction import Factors
from migrate.decisions.state import State
from migrate.decisions.write_tracking import Tracking
from migrate.guardian.handle import Guardian
from migrate.journal.book import MigrationJournal
from migrate.link import Link
from migrate.network.source import SourceNetwork
from migrate.options import Options
from migrate.progress import Progress
from migrate.report import Report
from transport.connection import Connection
from transport.throttle import RateLimit


@dataclass(frozen=True, kw_only=True)
class Source:
    """The container on this host, and the host's facts."""

    engine: Engine
    container: Container
    init: Init
    network: SourceNetwork
    facts: Facts

    @property
    def pid(self) -> int:
        """The pid of the container's init."""
        return self.container.pid

    def take_links_down(self) -> None:
        """Take the host's ends of the container's links down, which takes milliseconds."""
        self.network.take_links_down()

    def end_monitor(self) -> None:
        """End what the engine has started to watch the container. Raises what the engine raises."""
        self.engine.end_monitor(self.container)

    def record_ended(self) -> None:
        """Have the engine notice that the container has ended. Raises what the engine raises."""
        self.engine.record_ended(self.container)


@dataclass(frozen=True, kw_only=True)
class Target:
    """The other host: its facts, and the agent there.

    `link` is the connection, and `reconnect` makes another one for a block. `clock` is the offset
    of its clock. `shared_rootfs`: both hosts see the same rootfs. `layers_there` are the layers of
    the container image that its engine has; None if the engine has the whole image, or needs none.
    """

    link: Link
    reconnect: Callable[[], contextlib.AbstractContextManager[Connection]]
    agent: AgentClient
    facts: Facts
    clock: Offset
    shared_rootfs: bool
    layers_there: frozenset[str] | None

    @property
    def hostname(self) -> str:
        return self.facts.hostname


@dataclass(frozen=True, kw_only=True)
class Migration:
    """One migration. What a phase makes, it hands on by itself (Prepared, Armed, Frozen).

    `tracking` has the ways to track writes that these hosts have, best first. `room_bytes` bounds
    the RAM that image files and the page store may take on a host. `dump` is the source's role in
    CRIU's dump. `factors` correct what a freeze costs on this pair of hosts (prediction.py).

    `journal` is the source's, which lists the migration from here on, whatever becomes of it.
    `guardian` ends the migration if this process cannot.
    `undo` is closed when the migration is rolled back, `tidy` however it ends. `awake` keeps the
    source's processors awake (checkpoint/host/wakeful.py) until the container runs again, on either
    host.
    """

    migration_id: str
    options: Options
    source: Source
    target: Target
    tracking: tuple[Tracking, ...]
    factors: Factors
    room_bytes: int
    limit: RateLimit
    dump: DumpRole
    progress: Progress
    journal: MigrationJournal
    guardian: Guardian
    undo: Undo
    tidy: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    awake: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def state(self) -> State:
        return self.progress.state

    @property
    def report(self) -> Report:
        return self.progress.report

    def advance(self, state: State) -> None:
        """Enter `state`, tell the observer and the journal. Raises InvalidTransition.

        Whoever goes on after this process must know of the kill: for KILLING the journal comes
        first, and OSError is raised if it cannot be written.
        """
        if state is State.KILLING:
            self.journal.must_enter(state.value)
        self.progress.advance(state)
        if state is not State.KILLING:
            self.journal.entered(state.value)

    def note(self, text: str) -> None:
        """Tell the observer a line for people, and keep it for the report."""
        self.progress.note(text)

    def target_instant(self, name: str, at_ns: int) -> None:
        """Enter an instant of the freeze into the report.

        `at_ns` is CLOCK_MONOTONIC of the target.
        """
        self.progress.instant(name, "target", self.target.clock.to_ours(at_ns))
