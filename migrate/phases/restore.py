"""The restore on the target, where the container is then held: restored, but not running."""

from __future__ import annotations

from checkpoint.criu.images import rseq
from migrate.decisions.state import State
from migrate.errors import MemoryDiffers
from migrate.memory.copying import Copying
from migrate.memory.proof import MemoryProof
from migrate.migration import Migration
from migrate.phases.freeze import Frozen, sent_bytes
from migrate.phases.prepare import Prepared
from migrate.wire import protocol
from migrate.wire.values import Area


def restore(
    migration: Migration, prepared: Prepared, frozen: Frozen, copying: Copying
) -> protocol.Restore:
    """Release the armed restore, and wait until the target holds the restored container.

    The target's container is then restored and stopped, and its network is locked; the migration's
    state is HELD. Both hosts make digests of memory during the restore, which are compared then.
    Returns the request that the target has obeyed.

    Raises MemoryDiffers if the target's memory is not the frozen container's, or what `look_again`
    raises if that is why.
    """
    with migration.progress.phase("restore"):
        left_out = rseq.areas(prepared.images) if copying.by_criu else {}
        pid, whole = migration.source.container.pid, migration.options.verify_memory
        with MemoryProof(copying.found_pages, pid, whole=whole, left_out=left_out) as proof:
            seed = None if proof.whole else proof.seed.hex()
            areas = (Area(dst_id, *area) for dst_id, found in left_out.items() for area in found)
            question = protocol.Restore(
                image_files=frozen.images.files,
                image_bytes=frozen.images.bytes,
                batches=prepared.pages.count,
                proof_seed=seed,
                left_out=tuple(areas),
            )
            agent = migration.target.agent
            agent.ask(question)
            proof.begin()
            held = agent.answer(question, timeout_s=migration.options.limits.held_s)
            try:
                migration.report.sent.proof = proof.compare(held)
            except MemoryDiffers:
                look_again(migration, frozen)  # if the container ran on, that is why
                raise
        for name, at_ns in held.stamps:
            migration.target_instant(name, at_ns)
    migration.report.sent.frozen_bytes_sent = sent_bytes(migration, prepared) - frozen.sent_before
    migration.advance(State.HELD)
    return question


def look_again(migration: Migration, frozen: Frozen) -> None:
    """Check that the container is still as it was frozen: the last look before the kill.

    Raises ConversationLost if CRIU on the source has ended: the container may have run on, so that
    the restored copy is out of date. Raises ContainerDisturbed if somebody else has killed or
    signalled a process, and AgentGone or AgentFailed if the target is lost or cannot resume what it
    holds.
    """
    migration.target.agent.request(protocol.Ping(), timeout_s=migration.options.limits.ask_s)
    migration.dump.check_frozen()
    frozen.tasks.check()
