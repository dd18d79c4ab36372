"""Tests of checkpoint/engines/oci/runc.py: runc's own settings as OCI resources."""

from __future__ import annotations

from typing import Any

import pytest

from checkpoint.engines.oci.runc import limits


@pytest.mark.parametrize(
    ("cgroups", "expected"),
    [
        ({}, {}),
        ({"memory": 0, "cpu_shares": 0, "pids_limit": 0, "cpuset_cpus": "", "cpu_quota": None}, {}),
        ({"memory": 1 << 30}, {"memory": {"limit": 1 << 30}}),
        ({"memory": -1}, {"memory": {"limit": -1}}),
        (
            {"memory": 3, "memory_reservation": 2, "memory_swap": -1},
            {"memory": {"limit": 3, "reservation": 2, "swap": -1}},
        ),
        (
            {
                "cpu_shares": 512,
                "cpu_quota": 50_000,
                "cpu_period": 100_000,
                "cpuset_cpus": "0-1",
                "cpuset_mems": "0",
            },
            {
                "cpu": {
                    "shares": 512,
                    "quota": 50_000,
                    "period": 100_000,
                    "cpus": "0-1",
                    "mems": "0",
                }
            },
        ),
        ({"pids_limit": 100, "memory": 0}, {"pids": {"limit": 100}}),
        ({"blkio_weight": 10, "devices": [{"allow": True}], "path": "/x", "freezer": "THAWED"}, {}),
    ],
)
def test_each_limit_of_runc_is_one_of_the_spec(
    cgroups: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert limits(cgroups) == expected
