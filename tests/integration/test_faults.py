"""A slice of the fault matrix (scripts/faults), drawn by a seed."""

from __future__ import annotations

from tests.faults import cases
from tests.faults.run import stage
from tests.rig.hosts import Hosts

SEED, COUNT = 656, 2


def test_no_fault_of_a_slice_loses_or_doubles_the_container(hosts: Hosts) -> None:
    """Nothing is left behind, and what the tool says is true."""
    with stage(hosts, "runc", restarting=False) as scene:
        for case in cases.drawn(SEED, COUNT, ("runc",)):
            verdict = scene.judge(case)
            assert verdict.faults == (), verdict.plain()
            assert scene.back(verdict.running)
