"""The preparations while the container still runs: engine objects and files on the target."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from checkpoint.files.changes import written_through_mappings
from checkpoint.host import processes
from checkpoint.host.ram_directory import ram_directory
from migrate.agent.plug_command import channel_path
from migrate.decisions.state import State
from migrate.files import tree_door
from migrate.files.container_image import send_image
from migrate.files.rsync_tunnel import RsyncTunnel
from migrate.files.tmpfs import TmpfsSync, own_mounts
from migrate.files.trees import TreeSync
from migrate.link import WayBack
from migrate.memory.channels import PageChannels, channels_for, open_streams
from migrate.memory.encoding import EncodingChoice
from migrate.memory.receiver import socket_path
from migrate.migration import Migration
from migrate.wire import protocol
from transport.errors import StreamError
from transport.framing import ByteStream


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The things that the preparations have made for the phases that follow.

    `directory` is the migration's own, in RAM. CRIU on the source writes its image files into
    `images`.
    """

    directory: Path
    tunnel: RsyncTunnel
    pages: PageChannels
    trees: dict[str, TreeSync]  # by destination
    tmpfs: TmpfsSync

    @property
    def images(self) -> Path:
        return self.directory / "images"


def prepare(migration: Migration) -> Prepared:
    """Make on the target what can be made beforehand, and make the first copy of files.

    The container's image is sent if the target's engine lacks it. The engine makes its objects,
    page channels are opened, and file trees and tmpfs mounts are copied. At the end the migration's
    state is PREPARED.
    """
    source, target, report = migration.source, migration.target, migration.report
    with migration.progress.phase("prepare"):
        outlast(migration)
        directory = migration.tidy.enter_context(
            ram_directory(migration.migration_id, migration.room_bytes, migration.note)
        )
        tunnel = RsyncTunnel(
            target.link, tree_door.socket_path(migration.migration_id), migration.limit
        )
        send_missing_image(migration, tunnel)
        scratch = directory / "engine"
        scratch.mkdir(mode=0o700)
        packed = source.engine.pack(source.container, scratch)
        channels = channels_for(2 * target.clock.error_ns / 1e9)
        question = protocol.Prepare(
            shared=target.shared_rootfs,
            network=source.network.for_target,
            room_bytes=migration.room_bytes,
            page_channels=channels,
        )
        ready = target.agent.request(question, [packed]).trees
        pages = open_page_channels(migration, channels)
        migration.tidy.callback(pages.close)
        trees = copy_trees(migration, tunnel, ready)
        tmpfs = TmpfsSync(target.agent, source.container.pid, own_mounts(source.container))
        migration.tidy.callback(tmpfs.close)
        report.add_bytes("tmpfs", tmpfs.copy_whole())
    migration.advance(State.PREPARED)
    return Prepared(directory=directory, tunnel=tunnel, pages=pages, trees=trees, tmpfs=tmpfs)


def outlast(migration: Migration) -> None:
    """Have both hosts outlast the loss of the connection from now on, unless the user will not."""
    seconds, target = migration.options.reconnect_s, migration.target
    if seconds:
        path = channel_path(migration.migration_id)
        way_back = WayBack(target.link, path, seconds, migration.note)
        # The agent may notice the loss first, by the end of its channel.
        longer = int(migration.options.limits.silence_s)
        target.agent.outlast(way_back, seconds + longer)


def copy_trees(
    migration: Migration, tunnel: RsyncTunnel, there: Iterable[str]
) -> dict[str, TreeSync]:
    """Make the first copy of each file tree in `there`, and return the trees by destination.

    `there` are destinations in the container for which the target has reported a place by now.
    """
    copied: dict[str, TreeSync] = {}
    if migration.target.shared_rootfs:
        return copied
    for tree in migration.source.container.trees:
        if tree.destination in there:
            sync = TreeSync(tree, tunnel, migration.target.agent, lambda: _mapped(migration))
            migration.tidy.callback(sync.close)
            migration.report.add_bytes(sync.kind, sync.copy_whole())
            copied[tree.destination] = sync
    return copied


def _mapped(migration: Migration) -> set[str]:
    return written_through_mappings(processes.tree_of(migration.source.container.pid))


def send_missing_image(migration: Migration, tunnel: RsyncTunnel) -> None:
    """Send the container image, unless the target's engine has it or needs none."""
    source, target = migration.source, migration.target
    if target.layers_there is None:
        return
    migration.note(
        f"the target lacks the image; {len(target.layers_there)} of its layers are there, "
        "the rest is sent"
    )
    sent = send_image(source.engine, source.container, target.layers_there, target.agent, tunnel)
    migration.report.add_bytes("image", sent)


@dataclass(frozen=True)
class PageLink:
    """The way to page channels, the first and new ones (Renewal of memory/channels.py)."""

    migration: Migration
    count: int

    @property
    def renewed(self) -> int:
        return self.migration.target.agent.renewed

    def streams(self) -> list[ByteStream]:
        """Open the channels."""
        path, target = socket_path(self.migration.migration_id), self.migration.target
        while True:
            renewed = target.agent.renewed
            try:
                return open_streams(target.link, path, self.count)
            except StreamError:
                if not target.agent.is_renewed(renewed):
                    raise

    def renew(self) -> tuple[list[ByteStream], protocol.BatchesThere]:
        there = self.migration.target.agent.request(protocol.RenewPages())
        self.migration.note("page channels were lost, and others take their place")
        return self.streams(), there


def open_page_channels(migration: Migration, count: int) -> PageChannels:
    """Open `count` page channels, whose batches are encoded in a way that both hosts have."""
    common = [
        encoding
        for encoding in migration.source.facts.encodings
        if encoding in migration.target.facts.encodings
    ]
    link = PageLink(migration, count)
    renewal = link if migration.options.reconnect_s else None
    return PageChannels(link.streams(), EncodingChoice(common), migration.limit, renewal)
