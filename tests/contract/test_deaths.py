"""Deaths in a conversation: of CRIU, of the runtime, or of the interposer."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from checkpoint.errors import ConversationLost
from tests.contract.harness import (
    LIMIT_S,
    Dump,
    Scene,
    Task,
    dump_to_images,
    state_of,
    until,
)

STAGES = ["request", "between", "done"]


def bring_to(scene: Scene, role: Dump, stage: str) -> tuple[Task, Any, int]:
    """Bring a dump to a stage, and return (task, runtime, pid of CRIU).

    At "request" and "done" a gate holds the dump. At "between" the runtime does not answer CRIU.
    """
    task = scene.task()
    stall: dict[str, Any] = {"stall_at": "query-ext-files"} if stage == "between" else {}
    runtime = scene.dump_of(task, **stall)
    criu: int = runtime.wait_for("started")["criu"]
    role.request_gate.wait_reached(LIMIT_S)
    if stage != "request":
        role.request_gate.open()
    if stage == "between":
        runtime.wait_for("notify", script="query-ext-files")
    if stage == "done":
        role.done_gate.wait_reached(LIMIT_S)
        assert task.frozen()
    return task, runtime, criu


@pytest.mark.parametrize("stage", STAGES)
def test_after_the_death_of_criu_the_container_goes_on(scene: Scene, stage: str) -> None:
    """Each process that waits is told, and the runtime sees its peer gone."""
    with scene.dump_role() as role:
        task, runtime, criu = bring_to(scene, role, stage)
        os.kill(criu, signal.SIGKILL)
        until(lambda: state_of(criu) in ("", "Z"), "CRIU to be dead")
        role.request_gate.open()
        if stage != "done":
            with pytest.raises(ConversationLost):
                role.done_gate.wait_reached(LIMIT_S)
        role.done_gate.open()
        runtime.finish()
        role.wait_over()
        assert runtime.named("eof")
        assert not runtime.named("response")
    task.check_runs()


@pytest.mark.parametrize("stage", STAGES)
def test_after_the_death_of_the_runtime_the_container_goes_on(scene: Scene, stage: str) -> None:
    """CRIU undoes its dump, even if the gate is opened after the death."""
    with scene.dump_role() as role:
        task, runtime, criu = bring_to(scene, role, stage)
        runtime.process.kill()
        runtime.process.wait()
        role.request_gate.open()
        role.done_gate.open()
        role.wait_over()
        if stage != "done":
            with pytest.raises(ConversationLost):
                role.done_gate.wait_reached(LIMIT_S)
        until(lambda: state_of(criu) in ("", "Z"), "CRIU to end")
    task.check_runs()


@pytest.mark.parametrize("gate", ["request", "done"])
def test_after_the_death_of_the_interposer_a_dumped_container_goes_on(
    scene: Scene, gate: str
) -> None:
    task = scene.task()
    pids = task.tree()
    holder = scene.holder("dump", gate)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"listening\n"
    runtime = scene.dump_of(task)
    criu = runtime.wait_for("started")["criu"]
    assert holder.stdout.readline() == b"reached\n"
    assert task.frozen() == (gate == "done")
    holder.kill()
    runtime.finish()
    assert runtime.named("eof")
    assert not runtime.named("response")
    until(lambda: state_of(criu) == "", "CRIU to end")
    assert task.tree() == pids
    task.check_runs()


@pytest.mark.parametrize("gate", ["request", "done"])
def test_after_the_death_of_the_interposer_nothing_half_restored_stays(
    scene: Scene, gate: str
) -> None:
    """A process that stayed would be a second container once the source is thawed."""
    task = scene.task()
    dump_to_images(scene, task)
    holder = scene.holder("restore", gate)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"listening\n"
    runtime = scene.runtime("RESTORE")
    criu = runtime.wait_for("started")["criu"]
    assert holder.stdout.readline() == b"reached\n"
    restored = children_of(runtime.process.pid) - {criu}
    assert bool(restored) == (gate == "done")
    holder.kill()
    runtime.finish()
    assert runtime.named("eof")
    assert not runtime.named("response")
    until(lambda: not any(map(state_of, restored)), "the restored processes to be gone")


def children_of(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
