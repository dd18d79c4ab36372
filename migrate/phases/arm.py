"""The arming of both engines: each has its request to CRIU held, shortly before the freeze."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass, replace
from functools import partial

from checkpoint.criu import rpc
from checkpoint.criu.interposer import Interposer
from checkpoint.criu.parent import kerndat_with_tracking
from checkpoint.criu.roles import DumpRole
from checkpoint.criu.shim_install import install_shim, rpc_socket
from checkpoint.host.worker import Worker
from migrate.decisions.state import State
from migrate.decisions.write_tracking import Tracking
from migrate.files.engine_log import OutputSync
from migrate.files.trees import TreeSync
from migrate.migration import Migration
from migrate.network.source import SourceFrames
from migrate.no_pauses import no_pauses
from migrate.phases.preflight import note_exec_processes
from migrate.phases.prepare import Prepared, copy_trees
from migrate.wire import protocol


@dataclass(frozen=True, kw_only=True)
class Armed:
    """The things that wait for the freeze: passes over trees, the container's log, frame buffers.

    `output` is None if the container has no log that can be read.
    """

    trees: tuple[TreeSync, ...]
    output: OutputSync | None
    frames: SourceFrames


def arm_source(migration: Migration, prepared: Prepared) -> None:
    """Start the engine's checkpoint, and wait until its DUMP request to CRIU is held.

    The checkpoint's start-up then costs nothing in the freeze. A roll-back refuses the request,
    which makes the checkpoint fail. Before all that the engine is kept from starting the container
    again: podman changes nothing of a container while it checkpoints it. At the end the
    migration's state is ARMED. Raises ConversationLost if the request does not come.
    """
    dump, directory = migration.dump, prepared.directory
    with migration.progress.phase("arm source"):
        rpc.thread()  # now: it would take long in the freeze
        prepared.images.mkdir(mode=0o700)
        dump.edits = replace(
            dump.edits, external_mounts=tuple((path, path) for path in prepared.tmpfs.paths)
        )
        migration.undo.callback(dump.refuse)
        kerndat = kerndat_with_tracking() if Tracking.USERFAULTFD in migration.tracking else None
        env = install_shim(directory, kerndat or b"")
        migration.tidy.enter_context(Interposer(rpc_socket(directory), dump))
        source = migration.source
        source.engine.suspend_restart_policy(source.container, migration.undo)
        checkpoint = source.engine.checkpoint(source.container, prepared.images, env)
        migration.tidy.callback(reap, checkpoint, dump, migration.options.limits.end_s)
        Worker("engine's checkpoint", partial(watch, checkpoint, dump))
        dump.request_gate.wait_reached(migration.options.limits.arm_s)
    migration.advance(State.ARMED)
    migration.journal.sync()  # after a power cut from here on the target may have a copy


def arm_target(migration: Migration, prepared: Prepared) -> Armed:
    """Have the target start its engine's restore, and get both hosts ready for the freeze.

    The restore is held at its RESTORE request to CRIU. The container's log is copied, and files
    catch up. The last passes over trees and tmpfs mounts are started and wait. Sockets are opened
    for frames that come in the freeze. All this is done shortly before the freeze: podman, for one,
    answers no question while it restores a container.
    """
    source = migration.source
    with migration.progress.phase("arm target"):
        # From here on, what waits for the freeze on both hosts would be lost with the connection.
        migration.target.agent.settle()
        prepared.pages.settle()
        output = copy_output(migration)
        there = migration.target.agent.request(arm_question(migration)).trees
        late = copy_trees(migration, prepared.tunnel, set(there) - prepared.trees.keys())
        trees = (*prepared.trees.values(), *late.values())
        for tree in trees:
            migration.report.add_bytes(tree.kind, tree.catch_up())
            tree.arm()
        prepared.tmpfs.arm()
        for tree in trees:
            tree.wait_armed()
        frames = migration.tidy.enter_context(contextlib.closing(SourceFrames(source.network)))
        remaining = source.engine.remaining(source.container, shared=migration.target.shared_rootfs)
        for thing in (*remaining, *source.network.remaining):
            migration.undo.passing(thing)
        note_exec_processes(migration.source.container, migration.progress)
        migration.dump.at["network-lock"] = frames.keep
        migration.tidy.enter_context(no_pauses())
    return Armed(trees=trees, output=output, frames=frames)


def arm_question(migration: Migration) -> protocol.Arm:
    """Return the request to start the engine's restore on the target."""
    return protocol.Arm(
        macs=migration.source.network.macs_to_silence,
        nftables=migration.dump.edits.nftables,
        one_cgroup=migration.dump.edits.one_cgroup,
    )


def copy_output(migration: Migration) -> OutputSync | None:
    """Copy what the container's engine has logged, and return what copies the rest of the log.

    Returns None if there is no log, or none that can be read. Raises AgentGone.
    """
    log = migration.source.container.log
    if log is None:
        return None
    try:
        output = OutputSync(migration.target.agent, log)
    except OSError as error:
        migration.note(f"the container's log cannot be read and is not moved: {error}")
        return None
    migration.tidy.callback(output.close)
    migration.report.add_bytes("output", output.copy())
    return output


def watch(checkpoint: subprocess.Popen[bytes], dump: DumpRole) -> None:
    """Wait for the end of the engine's checkpoint, which ends every wait for its requests."""
    status = checkpoint.wait()
    dump.lose(f"the runtime's checkpoint ended with status {status}")


def reap(checkpoint: subprocess.Popen[bytes], dump: DumpRole, limit_s: float) -> None:
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
