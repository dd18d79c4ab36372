"""Clocks that are set in the middle of a move, which virtual machines have of their own."""

import json
import time

import pytest

from tests.rig import Container, Redis, until
from tests.rig.hosts import Hosts

STEPS = ["+1 hour", "-1 hour"]
#: The act of at_state.py that runs a command on a host.
ON = {"source": "here", "target": "on_target"}
MOVE_S, END_S = 120.0, 60.0


def difference_s(hosts: Hosts) -> float:
    """Return how far the clock of beta is ahead of alpha's."""
    read = [int(node.run(["date", "+%s"]).stdout) for node in hosts.both]
    return read[1] - read[0]


@pytest.mark.parametrize("state", ["PREPARED", "HELD", "KILLED"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("where", ["source", "target"])
def test_a_clock_that_is_set_changes_nothing(
    hosts: Hosts, redis: Redis[Container], where: str, step: str, state: str
) -> None:
    before_s = difference_s(hosts)
    with redis.client() as client:
        command = f"date --set '{step}' >&2"
        done = hosts.migrate_with("at_state", ON[where], state, command, timeout=MOVE_S)
        seen = client.finish()
    assert done.returncode == 0, done.stderr
    assert abs(abs(difference_s(hosts) - before_s) - 3600) < 60, "the clock was not set"
    assert (redis.on(hosts.beta).status, redis.status) == ("running", None)
    assert seen["error"] is None
    assert seen["contiguous"]


@pytest.mark.parametrize("step", STEPS)
def test_a_guardian_goes_on_with_a_clock_that_was_set(
    hosts: Hosts, redis: Redis[Container], step: str
) -> None:
    with redis.client() as client:
        command = f"date --set '{step}' >&2; kill -KILL $PPID"
        hosts.migrate_with("at_state", "here", "KILLED", command, timeout=MOVE_S)
        until(lambda: redis.on(hosts.beta).status == "running", "the guardian", timeout_s=END_S)
        time.sleep(1)
        seen = client.finish()
    assert seen["contiguous"]
    status = ["migratectl", "status", "--json"]

    def has_ended() -> bool:
        found = json.loads(hosts.alpha.run(status).stdout)["migrations"]
        return {each["condition"] for each in found} == {"ended"}

    until(has_ended, "the move's end", timeout_s=END_S)
