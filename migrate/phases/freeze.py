"""The freeze: CRIU dumps the container, and the rest is sent. The blackout begins here."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial

from checkpoint.files.changes import written_through_mappings
from checkpoint.host import memory, processes
from checkpoint.host.frozen import FrozenTasks, WaitingSignals
from checkpoint.host.wakeful import wakeful
from migrate.decisions.state import State
from migrate.files.criu_images import ImageStream
from migrate.guardian.handle import in_ns
from migrate.memory.copying import Copying
from migrate.migration import Migration
from migrate.phases.arm import Armed
from migrate.phases.precopy import PreCopied
from migrate.phases.prepare import Prepared
from migrate.wire import protocol

#: The memory that a lazy dump takes: so many bytes, and one part in so many of the container's
#: memory. A pipe needs 10 KiB of kernel memory for each MiB of the container; the rest is a margin.
DUMP_BYTES, DUMP_SHARE = 16 << 20, 64


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The frozen processes, their image files on the way, and the bytes sent before the freeze."""

    tasks: FrozenTasks
    images: ImageStream
    sent_before: int


def freeze(
    migration: Migration, prepared: Prepared, pre_copied: PreCopied, limit_s: float
) -> Frozen:
    """Have CRIU freeze the container and dump it. At the end the migration's state is FROZEN.

    If the container does not run again within `limit_s`, on either host, the guardian takes over.
    Before that, the memory for the dump is made ready, processors are kept awake, and the limits of
    bandwidth and of the container's speed are lifted.
    """
    sent_before = sent_bytes(migration, prepared)
    with contextlib.suppress(OSError):
        memory.bring_to_hand(DUMP_BYTES + migration.report.sent.memory_bytes // DUMP_SHARE)
    migration.guardian.expect(in_ns(limit_s), migration.dump.conversation)
    migration.awake.enter_context(wakeful())
    migration.target.agent.stream(protocol.Freezing())
    migration.limit.lift()
    if pre_copied.cpu_limit is not None:
        # The limit must neither be dumped nor slow CRIU down.
        pre_copied.cpu_limit.before.remove()
    images = ImageStream(
        prepared.images,
        migration.target.agent,
        partial(migration.report.add_bytes, "images"),
        WaitingSignals(migration.source.container.pid).of,
        lazy=migration.target.facts.lazy_pages,
    )
    migration.tidy.callback(images.close)
    # A roll-back talks to the agent: the thread of `images` must not send to it any more then.
    migration.undo.callback(images.close)
    with migration.progress.phase("dump"):
        pre_copied.copying.dump()
    tasks = FrozenTasks(processes.tree_of(migration.source.container.pid))
    migration.advance(State.FROZEN)
    return Frozen(tasks=tasks, images=images, sent_before=sent_before)


def transfer(
    migration: Migration, prepared: Prepared, armed: Armed, frozen: Frozen, copying: Copying
) -> None:
    """Send the rest: image files, the pages written last, and changed files.

    Changed files are those of trees, of the container's log and of tmpfs mounts.
    """
    report, pid = migration.report, migration.source.container.pid
    with migration.progress.phase("transfer"):
        frozen.images.finish()
        pids = processes.tree_of(pid)
        copying.send_last(pids, frozen.images.may_be_lazy)
        migration.progress.account_pages(copying.batches, prepared.pages.sent_bytes)
        mapped = written_through_mappings(pids)
        for tree in armed.trees:
            report.add_bytes(tree.kind, tree.copy_changes(mapped))
        if armed.output is not None:
            report.add_bytes("output", armed.output.copy_rest(pid))
        report.add_bytes("tmpfs", prepared.tmpfs.copy_changes(mapped))
        copying.batches.flush()


def sent_bytes(migration: Migration, prepared: Prepared) -> int:
    """Return the bytes of all frames sent so far, before encryption; rsync's are not among them."""
    return migration.target.agent.sent_bytes + prepared.pages.sent_bytes
