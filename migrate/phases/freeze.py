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
from migrate.migration import Context
from migrate.wire import protocol
from migrate.wire.values import Area

#: The memory that a lazy dump takes: so many bytes, and one part in so many of the container's
#: memory. A pipe needs 10 KiB of kernel memory for each MiB of the container; the rest is a margin.
DUMP_BYTES, DUMP_SHARE = 16 << 20, 64


def freeze(move: Context, copying: Copying) -> None:
    """Have CRIU freeze the container and dump it. At the end the migration's state is FROZEN.

    Before that, the memory for the dump is made ready, processors are kept awake, and the limits of
    bandwidth and of the container's speed are lifted.
    """
    assert move.dump is not None
    move.sent_before_freeze = move.sent_bytes
    with contextlib.suppress(OSError):
        memory.bring_to_hand(DUMP_BYTES + move.report.memory_bytes // DUMP_SHARE)
    move.awake.enter_context(wakeful())
    move.agent.stream(protocol.Freezing())
    move.limit.lift()
    if move.cpu_limit is not None:
        move.cpu_limit.restore()  # the limit must neither be dumped nor slow CRIU down
    images = move.image_stream = ImageStream(move)
    move.tidy.callback(images.close)
    with move.phase("dump"):
        copying.dump(move.dump)
    move.advance(State.FROZEN)


def transfer(move: Context, copying: Copying) -> None:
    """Send the rest: image files, the pages written last, and changed files.

    Changed files are those of trees, of the container's log and of tmpfs mounts.
    """
    assert move.image_stream is not None
    with move.phase("transfer"):
        move.image_stream.finish()
        pids = processes.tree_of(move.container.pid)
        copying.send_last(pids)
        move.account_pages(copying.batches)
        mapped = written_through_mappings(pids)
        for tree in move.trees.values():
            move.report.add_bytes(tree.kind, tree.copy_changes(mapped))
        if move.output is not None:
            move.report.add_bytes("output", move.output.copy_rest(move.container.pid))
        assert move.tmpfs is not None
        move.report.add_bytes("tmpfs", move.tmpfs.copy_changes(mapped))
        copying.batches.flush()


def restore(move: Context, copying: Copying) -> None:
    """Release the armed restore, and wait until the target holds the restored container.

    The target's container is then restored and stopped, and its network is locked; the migration's
    state is HELD. Both hosts make digests of memory during the restore, which are compared then.

    Raises MemoryDiffers if the target's memory is not the frozen container's. Raises
    ConversationLost if CRIU on the source ended while it held the container: the container may have
    run on, so that the restored copy is out of date. Raises ContainerNotRunning if somebody else
    ended the container.
    """
    assert move.dump is not None
    with move.phase("restore"):
        assert move.pages is not None and move.image_stream is not None
        images = move.image_stream
        left_out = rseq.areas(move.images) if copying.by_criu else {}
        whole = move.options.verify_memory
        with MemoryProof(
            copying.images, move.container.pid, whole=whole, left_out=left_out
        ) as proof:
            question = protocol.Restore(
                image_files=images.files,
                image_bytes=images.bytes,
                batches=move.pages.count,
                proof_seed=None if proof.whole else proof.seed.hex(),
                left_out=tuple(
                    Area(image, *area) for image, areas in left_out.items() for area in areas
                ),
            )
            move.agent.ask(question)
            proof.begin()
            held = move.agent.answer(question, timeout_s=move.options.limits.held_s)
            try:
                move.report.proof = proof.compare(held)
            finally:  # if the container ran on, that is why its memory differs
                _check_held(move)
        for name, at_ns in held.stamps:
            move.stage(name, "target", at_ns)
    move.report.frozen_bytes_sent = move.sent_bytes - move.sent_before_freeze
    move.advance(State.HELD)


def _check_held(move: Context) -> None:
    """Raise ConversationLost or ContainerNotRunning unless CRIU holds the frozen container."""
    assert move.dump is not None
    move.dump.check_frozen()
    if move.init.is_dead():
        raise ContainerNotRunning(f"process {move.init.pid} was killed by somebody else")
