"""Timers that go off once go off again on the target, whenever in the freeze they have done so."""

import pytest

from tests.rig.hosts import Hosts


@pytest.mark.parametrize(
    "times", [1, pytest.param(8, marks=pytest.mark.thorough)], ids=["once", "often"]
)
def test_no_alarm_is_lost(hosts: Hosts, times: int) -> None:
    """Of eight moves two or three lose one if CRIU's images are not repaired."""
    alarms = hosts.start("alarms", "--processes", "60", "--period-ms", "250")
    for _ in range(times):
        alarms, _ = hosts.move(alarms)
        alarms.verdict()
