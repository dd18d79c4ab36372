"""The state of one migration, handed from phase to phase."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from checkpoint.criu.roles import DumpRole, Edits
from checkpoint.engines.base import Container, Engine
from checkpoint.host.cpu_limit import CpuLimit
from checkpoint.host.processes import Init
from checkpoint.network import netns
from checkpoint.network.frames import FrameBuffer
from checkpoint.network.model import Network
from migrate.agent.client import AgentClient
from migrate.decisions.clock import Offset
from migrate.decisions.compatibility import Facts
from migrate.decisions.state import State
from migrate.decisions.write_tracking import Tracking
from migrate.files.criu_images import ImageStream
from migrate.files.engine_log import OutputSync
from migrate.files.rsync_tunnel import RsyncTunnel
from migrate.files.tmpfs import TmpfsSync
from migrate.files.trees import TreeSync
from migrate.memory.batches import PageBatches
from migrate.memory.channels import PageChannels
from migrate.options import Options
from migrate.progress import Progress
from migrate.report import Report
from transport.connection import Connection
from transport.throttle import RateLimit


@dataclass(kw_only=True)
class Migration:
    """One migration: what is known of both hosts, and what was made on them so far.

    `undo` is closed when the migration is rolled back, `tidy` however it ends.

    `source` and `target` are the facts of the two hosts; `clock` is the offset of the target's
    clock.
    `tracking` has the ways to track writes that these hosts have, best first.
    `room_bytes` bounds the RAM that image files and the page store may take on a host.
    `shared_rootfs`: both hosts see the same rootfs.
    `layers_there` are the layers of the container image that the target has; None if the target has
    the whole image, or needs none.
    """

    migration_id: str
    runtime: Engine
    container: Container
    init: Init
    network: Network | None
    progress: Progress
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
    #: The parts of `network` that this tool removes from the source once the container has left;
    #: None if the engine does that.
    network_parts: netns.Parts | None = None
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    tidy: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    #: Keeps the source's processors awake (checkpoint/host/wakeful.py) until the container runs
    #: again, on either host.
    awake: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    # Set by the phases `prepare`, `arm_source`, `pre_copy` and `arm_target`.
    directory: Path = Path()
    bridge: RsyncTunnel | None = None
    trees: dict[str, TreeSync] = field(default_factory=dict)  # by destination
    tmpfs: TmpfsSync | None = None
    output: OutputSync | None = None
    frames: list[FrameBuffer] = field(default_factory=list)
    dump: DumpRole | None = None
    pages: PageChannels | None = None
    cpu_limit: CpuLimit | None = None
    # Set by the phase `freeze`.
    sent_before_freeze: int = 0
    image_stream: ImageStream | None = None

    @property
    def images(self) -> Path:
        """The directory, in RAM, in which CRIU on the source writes its image files."""
        return self.directory / "images"

    @property
    def sent_bytes(self) -> int:
        """Bytes of all frames sent so far, before encryption; rsync's bytes are not among them."""
        return self.agent.sent_bytes + (self.pages.sent_bytes if self.pages else 0)

    def account_pages(self, batches: PageBatches) -> None:
        """Enter into the report how much memory was sent so far."""
        self.report.pages, self.report.pages_zero = batches.pages, batches.pages_zero
        self.report.page_bytes = batches.data_bytes
        self.report.bytes_sent["pages"] = self.pages.sent_bytes if self.pages else 0

    def advance(self, state: State) -> None:
        """Enter `state` and tell the observer. Raises InvalidTransition."""
        self.progress.advance(state)

    def note(self, text: str) -> None:
        """Tell the observer a line for people, and keep it for the report."""
        self.progress.note(text)

    def target_stage(self, name: str, at_ns: int) -> None:
        """Enter an instant of the freeze into the report; `at_ns` is the target's CLOCK_MONOTONIC."""
        self.progress.stage(name, "target", self.clock.to_ours(at_ns))

    @property
    def state(self) -> State:
        return self.progress.state

    @property
    def report(self) -> Report:
        return self.progress.report
