"""What a move knows and holds while it goes on; handed from phase to phase."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoint.criu.session import DumpRole, Edits
from checkpoint.host.cpu_limit import CpuLimit
from checkpoint.host.processes import Init
from checkpoint.network import netns
from checkpoint.network.frames import HeldFrames
from checkpoint.network.model import Network
from checkpoint.runtimes.base import Container, ContainerRuntime
from migrate.agent.client import AgentClient
from migrate.bridge import Bridge
from migrate.clock import Offset
from migrate.config import Options
from migrate.events import Observer
from migrate.facts import Facts
from migrate.output_sync import OutputSync
from migrate.page_batches import PageBatches
from migrate.page_channels import PageChannels
from migrate.report import Phase, Report, Stage
from migrate.state import State, check_move
from migrate.tmpfs_sync import TmpfsSync
from migrate.tracking import Tracking
from migrate.tree_sync import TreeSync
from transport.connection import Connection
from transport.throttle import RateLimit

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from migrate.image_stream import ImageStream


@dataclass(kw_only=True)
class Context:
    """One move. `undo` runs when it is rolled back, `tidy` however it ends."""

    migration_id: str
    runtime: ContainerRuntime
    container: Container
    init: Init
    network: Network | None
    observer: Observer
    report: Report
    connection: Connection
    agent: AgentClient
    source: Facts
    target: Facts
    edits: Edits
    options: Options
    tracking: tuple[Tracking, ...]
    room_bytes: int
    limit: RateLimit
    shared_rootfs: bool
    layers_there: frozenset[str] | None
    clock: Offset
    started_ns: int
    #: What of `network` must be removed by hand when the container has left; None where its engine does that.
    network_parts: netns.Parts | None = None
    state: State = State.PLANNED
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    tidy: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    #: Until the container runs again, here or there.
    awake: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    # Set by `prepare`, `arm_source`, `pre_copy` and `arm_target`.
    directory: Path = Path()
    bridge: Bridge | None = None
    trees: dict[str, TreeSync] = field(default_factory=dict)  # by destination
    tmpfs: TmpfsSync | None = None
    output: OutputSync | None = None
    frames: list[HeldFrames] = field(default_factory=list)
    dump: DumpRole | None = None
    pages: PageChannels | None = None
    cpu_limit: CpuLimit | None = None
    # Set by `freeze`.
    sent_before_freeze: int = 0
    image_stream: ImageStream | None = None

    @property
    def images(self) -> Path:
        """Where CRIU writes its images, in RAM."""
        return self.directory / "images"

    @property
    def sent_bytes(self) -> int:
        """Bytes of all frames so far, before encryption."""
        return self.agent.sent_bytes + (self.pages.sent_bytes if self.pages else 0)

    def account_pages(self, batches: PageBatches) -> None:
        """Enter what was sent of memory so far into the report."""
        self.report.pages, self.report.pages_zero = batches.pages, batches.pages_zero
        self.report.page_bytes = batches.data_bytes
        self.report.bytes_sent["pages"] = self.pages.sent_bytes if self.pages else 0

    def advance(self, state: State) -> None:
        """Enter a state. Raises InvalidMove."""
        check_move(self.state, state)
        self.state = state
        log.info("%s", state.value)
        self.observer.state(state)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a step of the move for the report, and tell whoever watches that it begins."""
        start = time.monotonic_ns()
        self.observer.phase(name)
        try:
            yield
        finally:
            length = time.monotonic_ns() - start
            self.report.phases.append(
                Phase(
                    name=name,
                    host="source",
                    start_us=self._since_start(start),
                    length_us=length // 1000,
                )
            )

    def note(self, text: str) -> None:
        """Tell whoever watches, and keep it for the report."""
        log.info("%s", text)
        self.observer.note(text)
        self.report.notes.append(text)

    def stage(self, name: str, host: str, at_ns: int) -> None:
        """Note an instant of the freeze; `at_ns` is that host's own clock."""
        ours = at_ns if host == "source" else self.clock.to_ours(at_ns)
        self.report.freeze.append(Stage(name=name, host=host, at_us=self._since_start(ours)))

    def _since_start(self, at_ns: int) -> int:
        return (at_ns - self.started_ns) // 1000
