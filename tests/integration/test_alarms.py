"""Timers that go off once go off again on the target, whenever in the freeze they have done so."""

import pytest

from tests.rig.hosts import Hosts

MOVES = 8


@pytest.mark.thorough
def test_no_alarm_is_lost(hosts: Hosts) -> None:
    """Of eight moves two or three lose one if CRIU's images are not repaired."""
    alarms = hosts.start("alarms", "--processes", "60", "--period-ms", "250")
    for _ in range(MOVES):
        alarms, _ = hosts.move(alarms)
        alarms.verdict()
