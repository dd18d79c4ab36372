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
from checkpoint.network.frames import HeldFrames
from migrate.decisions.compression import EncodingChoice
from migrate.decisions.state import State
from migrate.decisions.write_tracking import Tracking
from migrate.files import tree_door
from migrate.files.container_image import send_image
from migrate.files.engine_log import OutputSync
from migrate.files.rsync_tunnel import Bridge
from migrate.files.tmpfs import TmpfsSync, own_mounts
from migrate.files.trees import TreeSync
from migrate.memory import channels as page_channels
from migrate.memory.channels import PageChannels
from migrate.memory.receiver import socket_path
from migrate.migration import Context
from migrate.no_pauses import no_pauses
from migrate.phases.preflight import note_exec_processes
from migrate.wire import protocol


def prepare(move: Context) -> None:
    """Make on the target what can be made beforehand, and make the first copy of files.

    The container's image is sent if the target's engine lacks it. The engine makes its objects,
    page channels are opened, and file trees and tmpfs mounts are copied. At the end the migration's
    state is PREPARED.
    """
    with move.phase("prepare"):
        container = move.container
        move.directory = move.tidy.enter_context(
            ram_directory(move.migration_id, move.room_bytes, move.note)
        )
        move.bridge = Bridge(move.connection, tree_door.socket_path(move.migration_id), move.limit)
        if move.layers_there is not None:
            there = len(move.layers_there)
            move.note(
                f"the target lacks the image; {there} of its layers are there, the rest is sent"
            )
            move.report.add_bytes("image", send_image(move, move.layers_there))
        scratch = move.directory / "engine"
        scratch.mkdir(mode=0o700)
        packed = move.runtime.pack(container, scratch)
        channels = page_channels.channels_for(2 * move.clock.error_ns / 1e9)
        question = protocol.Prepare(
            shared=move.shared_rootfs,
            network=None if container.engine_network else move.network,
            room_bytes=move.room_bytes,
            page_channels=channels,
        )
        ready = move.agent.request(question, [packed]).trees
        move.pages = _open_page_channels(move, channels)
        move.tidy.callback(move.pages.close)
        _copy_trees(move, ready)
        move.tmpfs = TmpfsSync(move.agent, container.pid, own_mounts(container))
        move.tidy.callback(move.tmpfs.close)
        move.edits = replace(
            move.edits, external_mounts=tuple((path, path) for path in move.tmpfs.paths)
        )
        move.report.add_bytes("tmpfs", move.tmpfs.copy_whole())
    move.advance(State.PREPARED)


def _copy_trees(move: Context, there: Sequence[str]) -> None:
    """Make the first copy of each file tree in `there`, unless the tree was copied already.

    `there` are destinations in the container for which the target has reported a place by now.
    """
    if move.shared_rootfs:
        return
    assert move.bridge is not None
    for tree in move.container.trees:
        if tree.destination in there and tree.destination not in move.trees:
            sync = move.trees[tree.destination] = TreeSync(
                tree, move.bridge, move.agent, lambda: _mapped(move)
            )
            move.tidy.callback(sync.close)
            move.report.add_bytes(sync.kind, sync.copy_whole())


def _mapped(move: Context) -> set[str]:
    return written_through_mappings(processes.tree_of(move.container.pid))


def _copy_output(move: Context) -> None:
    if move.container.log is None:
        return
    try:
        move.output = OutputSync(move.agent, move.container.log)
    except OSError as error:
        move.note(f"the container's log cannot be read and is not moved: {error}")
        return
    move.tidy.callback(move.output.close)
    move.report.add_bytes("output", move.output.copy())


def arm_source(move: Context) -> None:
    """Start the engine's checkpoint, and wait until its DUMP request to CRIU is held.

    The checkpoint's start-up then costs nothing in the freeze. A roll-back refuses the request,
    which makes the checkpoint fail. At the end the migration's state is ARMED. Raises
    ConversationLost if the request does not come.
    """
    with move.phase("arm here"):
        images = move.images
        images.mkdir(mode=0o700)
        dump = move.dump = DumpRole(move.edits)
        move.tidy.callback(dump.close)
        move.undo.callback(dump.refuse)
        kerndat = kerndat_with_tracking() if Tracking.USERFAULTFD in move.tracking else None
        env = install_shim(move.directory, kerndat or b"")
        move.tidy.enter_context(Interposer(rpc_socket(move.directory), dump))
        checkpoint = move.runtime.checkpoint(move.container, images, env)
        move.tidy.callback(_reap, checkpoint, dump, move.options.limits.end_s)
        threading.Thread(target=_watch, args=(checkpoint, dump), daemon=True).start()
        dump.request_gate.wait_reached(move.options.limits.arm_s)
    move.advance(State.ARMED)


def arm_target(move: Context) -> None:
    """Have the target start its engine's restore, and get both hosts ready for the freeze.

    The restore is held at its RESTORE request to CRIU. The container's log is copied, and files
    catch up. The last passes over trees and tmpfs mounts are started and wait. Sockets are opened
    for frames that come in the freeze, and the source's engine is kept from starting the container
    again. All this is done shortly before the freeze: podman, for one, answers no question while it
    restores a container.
    """
    assert move.dump is not None
    with move.phase("arm there"):
        interfaces = move.network.interfaces if move.network else ()
        macs = (
            tuple(interface.mac for interface in interfaces)
            if move.container.engine_network
            else ()
        )
        _copy_output(move)
        question = protocol.Arm(
            macs=macs, nftables=move.edits.nftables, one_cgroup=move.edits.one_cgroup
        )
        _copy_trees(move, move.agent.request(question).trees)
        for tree in move.trees.values():
            move.report.add_bytes(tree.kind, tree.catch_up())
            tree.arm()
        assert move.tmpfs is not None
        move.tmpfs.arm()
        for tree in move.trees.values():
            tree.wait_armed()
        for interface in interfaces:
            frames = HeldFrames(interface)
            move.tidy.callback(frames.close)
            move.frames.append(frames)
        move.undo.callback(move.runtime.hold_back(move.container))
        note_exec_processes(move)
        move.dump.at["network-lock"] = partial(_keep_frames, move)
        move.tidy.enter_context(no_pauses())


def _keep_frames(move: Context) -> None:
    for frames in move.frames:
        frames.keep()


def _open_page_channels(move: Context, count: int) -> PageChannels:
    streams = page_channels.open_streams(move.connection, socket_path(move.migration_id), count)
    common = [encoding for encoding in move.source.encodings if encoding in move.target.encodings]
    return PageChannels(streams, EncodingChoice(common), move.limit)


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
