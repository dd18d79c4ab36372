"""The freeze: dump, send the rest, restore on the target and hold. All of it is blackout."""

from __future__ import annotations

import contextlib

from checkpoint.criu.images import rseq
from checkpoint.errors import ContainerNotRunning
from checkpoint.files.changes import written_through_mappings
from checkpoint.host import memory, processes
from checkpoint.host.wakeful import wakeful
from migrate.decisions.state import State
from migrate.files.criu_images import ImageStream
from migrate.memory.copying import Copying
from migrate.memory.proof import MemoryProof
from migrate.migration import Migration
from migrate.wire import protocol
from migrate.wire.values import Area

#: The memory that a lazy dump takes: so many bytes, and one part in so many of the container's
#: memory. A pipe needs 10 KiB of kernel memory for each MiB of the container; the rest is a margin.
DUMP_BYTES, DUMP_SHARE = 16 << 20, 64


def freeze(migration: Migration, copying: Copying) -> None:
    """Have CRIU freeze the container and dump it. At the end the migration's state is FROZEN.

    Before that, the memory for the dump is made ready, processors are kept awake, and the limits of
    bandwidth and of the container's speed are lifted.
    """
    assert migration.dump is not None
    migration.sent_before_freeze = migration.sent_bytes
    with contextlib.suppress(OSError):
        memory.bring_to_hand(DUMP_BYTES + migration.report.memory_bytes // DUMP_SHARE)
    migration.awake.enter_context(wakeful())
    migration.agent.stream(protocol.Freezing())
    migration.limit.lift()
    if migration.cpu_limit is not None:
        migration.cpu_limit.restore()  # the limit must neither be dumped nor slow CRIU down
    images = migration.image_stream = ImageStream(
        migration.images, migration.agent, lazy=migration.target.lazy_pages
    )
    migration.tidy.callback(images.close)
    with migration.progress.phase("dump"):
        copying.dump()
    migration.advance(State.FROZEN)


def transfer(migration: Migration, copying: Copying) -> None:
    """Send the rest: image files, the pages written last, and changed files.

    Changed files are those of trees, of the container's log and of tmpfs mounts.
    """
    assert migration.image_stream is not None
    with migration.progress.phase("transfer"):
        migration.image_stream.finish()
        migration.report.add_bytes("images", migration.image_stream.bytes)
        pids = processes.tree_of(migration.container.pid)
        copying.send_last(pids, migration.image_stream.may_be_lazy)
        migration.account_pages(copying.batches)
        mapped = written_through_mappings(pids)
        for tree in migration.trees.values():
            migration.report.add_bytes(tree.kind, tree.copy_changes(mapped))
        if migration.output is not None:
            migration.report.add_bytes(
                "output", migration.output.copy_rest(migration.container.pid)
            )
        assert migration.tmpfs is not None
        migration.report.add_bytes("tmpfs", migration.tmpfs.copy_changes(mapped))
        copying.batches.flush()


def restore(migration: Migration, copying: Copying) -> None:
    """Release the armed restore, and wait until the target holds the restored container.

    The target's container is then restored and stopped, and its network is locked; the migration's
    state is HELD. Both hosts make digests of memory during the restore, which are compared then.

    Raises MemoryDiffers if the target's memory is not the frozen container's. Raises
    ConversationLost if CRIU on the source ended while it held the container: the container may have
    run on, so that the restored copy is out of date. Raises ContainerNotRunning if somebody else
    ended the container.
    """
    assert migration.dump is not None
    with migration.progress.phase("restore"):
        assert migration.pages is not None and migration.image_stream is not None
        images = migration.image_stream
        left_out = rseq.areas(migration.images) if copying.by_criu else {}
        whole = migration.options.verify_memory
        with MemoryProof(
            copying.images, migration.container.pid, whole=whole, left_out=left_out
        ) as proof:
            question = protocol.Restore(
                image_files=images.files,
                image_bytes=images.bytes,
                batches=migration.pages.count,
                proof_seed=None if proof.whole else proof.seed.hex(),
                left_out=tuple(
                    Area(image, *area) for image, areas in left_out.items() for area in areas
                ),
            )
            migration.agent.ask(question)
            proof.begin()
            held = migration.agent.answer(question, timeout_s=migration.options.limits.held_s)
            try:
                migration.report.proof = proof.compare(held)
            finally:  # if the container ran on, that is why its memory differs
                _check_held(migration)
        for name, at_ns in held.stamps:
            migration.target_stage(name, at_ns)
    migration.report.frozen_bytes_sent = migration.sent_bytes - migration.sent_before_freeze
    migration.advance(State.HELD)


def _check_held(migration: Migration) -> None:
    """Raise ConversationLost or ContainerNotRunning unless CRIU holds the frozen container."""
    assert migration.dump is not None
    migration.dump.check_frozen()
    if migration.init.is_dead():
        raise ContainerNotRunning(f"process {migration.init.pid} was killed by somebody else")
