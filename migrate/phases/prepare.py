"""The preparations while the container still runs: files on the target, both engines armed."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from checkpoint.criu.interposer import Interposer
from checkpoint.criu.parent import kerndat_with_tracking
from checkpoint.criu.roles import DumpRole
from checkpoint.criu.shim_install import install_shim, rpc_socket
from checkpoint.files.changes import written_through_mappings
from checkpoint.host import processes
from checkpoint.host.ram_directory import ram_directory
from checkpoint.network.frames import FrameBuffer
from migrate.decisions.compression import EncodingChoice
from migrate.decisions.state import State
from migrate.decisions.write_tracking import Tracking
from migrate.files import tree_door
from migrate.files.container_image import send_image
from migrate.files.engine_log import OutputSync
from migrate.files.rsync_tunnel import RsyncTunnel
from migrate.files.tmpfs import TmpfsSync, own_mounts
from migrate.files.trees import TreeSync
from migrate.memory.channels import PageChannels, channels_for, open_streams
from migrate.memory.receiver import socket_path
from migrate.migration import Migration
from migrate.no_pauses import no_pauses
from migrate.phases.preflight import note_exec_processes
from migrate.wire import protocol


def prepare(migration: Migration) -> None:
    """Make on the target what can be made beforehand, and make the first copy of files.

    The container's image is sent if the target's engine lacks it. The engine makes its objects,
    page channels are opened, and file trees and tmpfs mounts are copied. At the end the migration's
    state is PREPARED.
    """
    with migration.progress.phase("prepare"):
        container = migration.container
        migration.directory = migration.tidy.enter_context(
            ram_directory(migration.migration_id, migration.room_bytes, migration.note)
        )
        migration.bridge = RsyncTunnel(
            migration.connection, tree_door.socket_path(migration.migration_id), migration.limit
        )
        if migration.layers_there is not None:
            there = len(migration.layers_there)
            migration.note(
                f"the target lacks the image; {there} of its layers are there, the rest is sent"
            )
            sent = send_image(
                migration.runtime,
                container,
                migration.layers_there,
                migration.agent,
                migration.bridge,
            )
            migration.report.add_bytes("image", sent)
        scratch = migration.directory / "engine"
        scratch.mkdir(mode=0o700)
        packed = migration.runtime.pack(container, scratch)
        channels = channels_for(2 * migration.clock.error_ns / 1e9)
        question = protocol.Prepare(
            shared=migration.shared_rootfs,
            network=None if container.engine_network else migration.network,
            room_bytes=migration.room_bytes,
            page_channels=channels,
        )
        ready = migration.agent.request(question, [packed]).trees
        migration.pages = _open_page_channels(migration, channels)
        migration.tidy.callback(migration.pages.close)
        _copy_trees(migration, ready)
        migration.tmpfs = TmpfsSync(migration.agent, container.pid, own_mounts(container))
        migration.tidy.callback(migration.tmpfs.close)
        migration.edits = replace(
            migration.edits, external_mounts=tuple((path, path) for path in migration.tmpfs.paths)
        )
        migration.report.add_bytes("tmpfs", migration.tmpfs.copy_whole())
    migration.advance(State.PREPARED)


def _copy_trees(migration: Migration, there: Sequence[str]) -> None:
    """Make the first copy of each file tree in `there`, unless the tree was copied already.

    `there` are destinations in the container for which the target has reported a place by now.
    """
    if migration.shared_rootfs:
        return
    assert migration.bridge is not None
    for tree in migration.container.trees:
        if tree.destination in there and tree.destination not in migration.trees:
            sync = migration.trees[tree.destination] = TreeSync(
                tree, migration.bridge, migration.agent, lambda: _mapped(migration)
            )
            migration.tidy.callback(sync.close)
            migration.report.add_bytes(sync.kind, sync.copy_whole())


def _mapped(migration: Migration) -> set[str]:
    return written_through_mappings(processes.tree_of(migration.container.pid))


def _copy_output(migration: Migration) -> None:
    if migration.container.log is None:
        return
    try:
        migration.output = OutputSync(migration.agent, migration.container.log)
    except OSError as error:
        migration.note(f"the container's log cannot be read and is not moved: {error}")
        return
    migration.tidy.callback(migration.output.close)
    migration.report.add_bytes("output", migration.output.copy())


def arm_source(migration: Migration) -> None:
    """Start the engine's checkpoint, and wait until its DUMP request to CRIU is held.

    The checkpoint's start-up then costs nothing in the freeze. A roll-back refuses the request,
    which makes the checkpoint fail. At the end the migration's state is ARMED. Raises
    ConversationLost if the request does not come.
    """
    with migration.progress.phase("arm source"):
        images = migration.images
        images.mkdir(mode=0o700)
        dump = migration.dump = DumpRole(migration.edits)
        migration.tidy.callback(dump.close)
        migration.undo.callback(dump.refuse)
        kerndat = kerndat_with_tracking() if Tracking.USERFAULTFD in migration.tracking else None
        env = install_shim(migration.directory, kerndat or b"")
        migration.tidy.enter_context(Interposer(rpc_socket(migration.directory), dump))
        checkpoint = migration.runtime.checkpoint(migration.container, images, env)
        migration.tidy.callback(_reap, checkpoint, dump, migration.options.limits.end_s)
        threading.Thread(target=_watch, args=(checkpoint, dump), daemon=True).start()
        dump.request_gate.wait_reached(migration.options.limits.arm_s)
    migration.advance(State.ARMED)


def arm_target(migration: Migration) -> None:
    """Have the target start its engine's restore, and get both hosts ready for the freeze.

    The restore is held at its RESTORE request to CRIU. The container's log is copied, and files
    catch up. The last passes over trees and tmpfs mounts are started and wait. Sockets are opened
    for frames that come in the freeze, and the source's engine is kept from starting the container
    again. All this is done shortly before the freeze: podman, for one, answers no question while it
    restores a container.
    """
    assert migration.dump is not None
    with migration.progress.phase("arm target"):
        interfaces = migration.network.interfaces if migration.network else ()
        macs = (
            tuple(interface.mac for interface in interfaces)
            if migration.container.engine_network
            else ()
        )
        _copy_output(migration)
        question = protocol.Arm(
            macs=macs, nftables=migration.edits.nftables, one_cgroup=migration.edits.one_cgroup
        )
        _copy_trees(migration, migration.agent.request(question).trees)
        for tree in migration.trees.values():
            migration.report.add_bytes(tree.kind, tree.catch_up())
            tree.arm()
        assert migration.tmpfs is not None
        migration.tmpfs.arm()
        for tree in migration.trees.values():
            tree.wait_armed()
        for interface in interfaces:
            frames = FrameBuffer(interface)
            migration.tidy.callback(frames.close)
            migration.frames.append(frames)
        migration.undo.callback(migration.runtime.hold_back(migration.container))
        note_exec_processes(migration)
        migration.dump.at["network-lock"] = partial(_keep_frames, migration)
        migration.tidy.enter_context(no_pauses())


def _keep_frames(migration: Migration) -> None:
    for frames in migration.frames:
        frames.keep()


def _open_page_channels(migration: Migration, count: int) -> PageChannels:
    streams = open_streams(migration.connection, socket_path(migration.migration_id), count)
    common = [
        encoding
        for encoding in migration.source.encodings
        if encoding in migration.target.encodings
    ]
    return PageChannels(streams, EncodingChoice(common), migration.limit)


def _watch(checkpoint: subprocess.Popen[bytes], dump: DumpRole) -> None:
    status = checkpoint.wait()
    dump.lose(f"the runtime's checkpoint ended with status {status}")


def _reap(checkpoint: subprocess.Popen[bytes], dump: DumpRole, limit_s: float) -> None:
    """Refuse what the engine's checkpoint waits for, and wait for its end; kill it after `limit_s`.

    The checkpoint must have ended when the migration has, however that ended.
    """
    dump.refuse()
    try:
        checkpoint.wait(limit_s)
    except subprocess.TimeoutExpired:
        checkpoint.kill()
        checkpoint.wait()
    if checkpoint.stderr is not None:
        checkpoint.stderr.close()
