"""The second restore, if the target has lost the first one after the source's death.

Something on the target killed CRIU or the engine's restore after the last look before the kill, and
nothing of the container has run there. All that a restore needs is on the target still: image
files, memory, and files. Only the engine's object may be gone, with the files in it: these are
copied again from the source, which removes nothing before the container runs.
"""

from __future__ import annotations

from migrate.guardian.handle import in_ns
from migrate.migration import Migration
from migrate.phases.arm import Armed, arm_question
from migrate.phases.prepare import Prepared
from migrate.wire import protocol


def restore_again(
    migration: Migration, prepared: Prepared, armed: Armed, obeyed: protocol.Restore
) -> None:
    """Have the target restore the container once more, and hold it, ready for another GO.

    `obeyed` is the request for the restore that was lost. Raises AgentGone, AgentFailed or
    CommandFailed.
    """
    agent, limits = migration.target.agent, migration.options.limits
    with migration.progress.phase("restore again"):
        migration.guardian.expect(in_ns(limits.arm_s + limits.held_s))
        there = agent.request(arm_question(migration), timeout_s=limits.arm_s).trees
        lost = set(there) - prepared.trees.keys()
        for tree in armed.trees:
            if tree.destination in lost:
                migration.report.add_bytes(tree.kind, tree.copy_again())
        agent.stream(protocol.Freezing())
        agent.request(obeyed, timeout_s=limits.held_s)  # the proof of memory was made before
        # Nobody waits longer for the second GO than the target may take to obey it.
        migration.guardian.expect(in_ns(limits.resume_s))
