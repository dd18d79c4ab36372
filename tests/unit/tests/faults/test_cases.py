"""Tests of tests/faults/cases.py: a seed draws the same cases each time, and all in the end."""

from __future__ import annotations

from tests.faults.cases import (
    DOCKER_FAULTS,
    ENGINES,
    FAULTS,
    LATER_FAULTS,
    POINTS,
    RESTARTING_FAULTS,
    drawn,
    matrix,
)


def test_the_matrix_has_each_fault_at_each_point_with_each_engine() -> None:
    cases = matrix()
    for_each = len(ENGINES) * len([*FAULTS, *LATER_FAULTS])
    for_some = len(DOCKER_FAULTS) + 2 * len(RESTARTING_FAULTS)  # runc restarts nothing
    assert len(cases) == len(POINTS) * (for_each + for_some)
    assert [case.number for case in cases] == list(range(len(cases)))


def test_a_seed_draws_the_same_cases() -> None:
    assert drawn(3, 20) == drawn(3, 20)
    assert drawn(3, 20) != drawn(4, 20)


def test_no_case_is_drawn_again_before_all_were_drawn() -> None:
    everything = len(matrix())
    numbers = [case.number for case in drawn(1, everything + 5)]
    assert len(set(numbers)) == everything
    assert {case.engine for case in drawn(1, 50, ("podman",))} == {"podman"}
