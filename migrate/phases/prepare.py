"""Make everything on the target that can be made while the container still runs, and arm both runtimes."""

from __future__ import annotations

import gc
import json
import subprocess
import threading
from dataclasses import replace
from functools import partial

from checkpoint.criu.interposer import Interposer
from checkpoint.criu.parent import kerndat_with_tracking
from checkpoint.criu.session import DumpRole
from checkpoint.criu.shim_install import install_shim, rpc_socket
from checkpoint.host import processes
from checkpoint.images.directory import ram_directory
from checkpoint.network.frames import HeldFrames
from checkpoint.rootfs.tmpfs import tmpfs_mounts
from checkpoint.runtimes.base import Container
from migrate import page_channels, protocol
from migrate.agent.page_receiver import socket_path
from migrate.context import Context
from migrate.encoding_choice import EncodingChoice
from migrate.page_channels import PageChannels
from migrate.rootfs_sync import RootfsSync
from migrate.state import State
from migrate.tmpfs_sync import TmpfsSync
from migrate.tracking import Tracking

ARM_TIMEOUT_S = 30.0


def prepare(move: Context) -> None:
    """The target gets the bundle, the network and a first copy of the rootfs."""
    with move.phase("prepare"):
        container = move.container
        move.directory = move.tidy.enter_context(ram_directory(move.migration_id, move.room_bytes))
        channels = page_channels.channels_for(2 * move.clock.error_ns / 1e9)
        move.agent.request(
            protocol.Prepare(
                bundle=str(container.bundle),
                rootfs=str(container.rootfs),
                shared=move.shared_rootfs,
                config=config_for_target(container),
                network=move.network.to_wire() if move.network else None,
                room_bytes=move.room_bytes,
                page_channels=channels,
            ),
            protocol.Done,
        )
        move.pages = _open_page_channels(move, channels)
        move.tidy.callback(move.pages.close)
        if not move.shared_rootfs:
            move.rootfs = RootfsSync(move.connection, container.rootfs, move.directory, move.limit)
            move.tidy.callback(move.rootfs.close)
            move.report.add_bytes("rootfs", move.rootfs.copy_whole())
        mounts = tmpfs_mounts(container.pid, processes.in_pid_namespace_of(container.pid))
        move.tmpfs = TmpfsSync(move.agent, container.pid, mounts)
        move.edits = replace(move.edits, external_mounts=tuple((path, path) for path in move.tmpfs.paths))
        move.report.add_bytes("tmpfs", move.tmpfs.copy_whole())
    move.advance(State.PREPARED)


def arm(move: Context) -> None:
    """Start `checkpoint` here and `restore` there; both wait at the door, all start-up is behind them."""
    with move.phase("arm"):
        images = move.images
        images.mkdir(mode=0o700)
        dump = move.dump = DumpRole(move.edits)
        move.undo.callback(dump.refuse)
        kerndat = kerndat_with_tracking() if Tracking.USERFAULTFD in move.tracking else None
        env = install_shim(move.directory, kerndat or b"")
        move.tidy.enter_context(Interposer(rpc_socket(move.directory), dump))
        checkpoint = move.runtime.checkpoint(move.container.id, images, env)
        move.tidy.callback(_reap, checkpoint, dump)
        threading.Thread(target=_watch, args=(checkpoint, dump), daemon=True).start()
        dump.request_gate.wait_reached(ARM_TIMEOUT_S)
        descriptors = json.loads((images / "descriptors.json").read_text())
        move.agent.request(
            protocol.Arm(
                descriptors=descriptors,
                nftables=move.edits.nftables,
                one_cgroup=move.edits.one_cgroup,
            ),
            protocol.Done,
        )
        if move.rootfs is not None:
            move.rootfs.arm()
        for interface in move.network.interfaces if move.network else ():
            frames = HeldFrames(interface)
            move.tidy.callback(frames.close)
            move.frames.append(frames)
        dump.at["network-lock"] = partial(_keep_frames, move)
        # From here to the resume no collector pause.
        gc.collect()
        gc.freeze()
        gc.disable()
        move.tidy.callback(gc.enable)
    move.advance(State.ARMED)


def _keep_frames(move: Context) -> None:
    for frames in move.frames:
        frames.keep()


def _open_page_channels(move: Context, count: int) -> PageChannels:
    streams = page_channels.open_streams(move.connection, socket_path(move.migration_id), count)
    common = [encoding for encoding in move.source.encodings if encoding in move.target.encodings]
    return PageChannels(streams, EncodingChoice(common), move.limit)


def config_for_target(container: Container) -> dict[str, object]:
    """The bundle's config.json with the limits in force now, which `update` may have changed."""
    config = json.loads(json.dumps(container.config))
    resources = config.setdefault("linux", {}).setdefault("resources", {})
    for section, values in container.resources.items():
        resources.setdefault(section, {}).update(values)
    return dict(config)


def _watch(checkpoint: subprocess.Popen[bytes], dump: DumpRole) -> None:
    status = checkpoint.wait()
    dump.lose(f"the runtime's checkpoint ended with status {status}")


def _reap(checkpoint: subprocess.Popen[bytes], dump: DumpRole) -> None:
    """However the move ended, the runtime's checkpoint must have ended too."""
    dump.refuse()
    try:
        checkpoint.wait(30)
    except subprocess.TimeoutExpired:
        checkpoint.kill()
        checkpoint.wait()
    if checkpoint.stderr is not None:
        checkpoint.stderr.close()
    dump.close()
