"""The prediction of the freeze: looks at the container, and keeps to what the user allows.

What would take too long is told before anything is sent (`check`), with the rounds of pre-copy
(precopy.py), and for the last time right before the freeze (`check_last`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from checkpoint.host import processes
from checkpoint.host.census import census, private_bytes
from migrate import costs
from migrate.decisions.convergence import History, Policy, predicted
from migrate.decisions.prediction import (
    Content,
    Factors,
    Item,
    Prediction,
    corrected,
    doubted,
    predict,
)
from migrate.errors import NotConverging, WouldFreezeTooLong
from migrate.memory.copying import Copying
from migrate.migration import Migration
from migrate.phases.arm import Armed
from migrate.phases.prepare import Prepared
from migrate.progress import Progress


def content_of(init: int, memory_bytes: int, untracked: Sequence[int] | None) -> Content:
    """Count what a container has, whose memory has `memory_bytes` in all.

    `untracked` are the processes whose memory is sent in the freeze; None stands for all.
    """
    found = census(init, processes.tree_of(init))
    frozen = memory_bytes if untracked is None else found.shared_bytes + private_bytes(untracked)
    return {
        Item.FREEZE: 1,
        Item.MEMORY: memory_bytes,
        Item.FROZEN: frozen,
        Item.PROCESSES: found.processes,
        Item.THREADS: found.threads,
        Item.CONNECTIONS: found.connections,
        Item.DESCRIPTORS: found.descriptors,
        Item.MAPPINGS: found.mappings,
    }


def check(content: Content, policy: Policy, progress: Progress) -> Factors:
    """Predict the freeze before anything is sent, and note one that would be longer than allowed.

    Returns what earlier moves have taught. Raises WouldFreezeTooLong if the container is to be left
    alone then.
    """
    host = progress.report.target
    factors = costs.learned(host)
    prediction = predict(content, factors, None)
    enter(progress, prediction)
    if policy.forbids(prediction):
        if factors:
            costs.keep(host, doubted(factors))
        raise WouldFreezeTooLong(str(prediction), policy.max_downtime_ms)
    if policy.is_over(prediction):
        progress.note(f"{prediction}; {policy.max_downtime_ms} ms are allowed")
    return factors


def check_last(
    migration: Migration,
    prepared: Prepared,
    armed: Armed,
    copying: Copying,
    history: History | None,
) -> float:
    """Return the limit to the freeze, from its beginning until the container runs, in seconds.

    `history` is that of pre-copy, if there was one. Raises NotConverging if the freeze would be
    longer than allowed by now, and the container is to be left alone then.
    """
    policy, memory_bytes = migration.options.policy, migration.report.sent.memory_bytes
    content = {
        **content_of(migration.source.pid, memory_bytes, copying.untracked),
        Item.FILES: prepared.tmpfs.file_count + sum(tree.file_count for tree in armed.trees),
        Item.CHANGING: sum(tree.changes for tree in armed.trees),
    }
    if history is None:
        prediction = predict(content, migration.factors, None)
    else:
        prediction = predicted(replace(history, content=content))
    enter(migration.progress, prediction)
    if policy.forbids(prediction):
        raise NotConverging(f"{prediction}; over the {policy.max_downtime_ms} ms allowed")
    return policy.frozen_limit_s(prediction.total_us)


def enter(progress: Progress, prediction: Prediction) -> None:
    """Enter a prediction into the report, in the place of an earlier one."""
    times = progress.report.times
    times.predicted_downtime_us = prediction.total_us
    times.predicted_parts_us = {item.key: us for item, us in prediction.parts_us.items() if us}


def learn(migration: Migration) -> None:
    """Keep for the next move to the target what this one has taught about the costs of a freeze.

    A freeze in which the container had to be restored twice teaches nothing.
    """
    times = migration.report.times
    twice = any(phase.name == "restore again" for phase in times.phases)
    if times.downtime_us is not None and not twice:
        parts = {item: times.predicted_parts_us.get(item.key, 0) for item in Item}
        costs.keep(
            migration.target.hostname, corrected(migration.factors, parts, times.downtime_us)
        )
