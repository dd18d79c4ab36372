"""Two moves of one container at once: one moves it, the other is refused and changes nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.faults import two_moves
from tests.faults.two_moves import CONTESTS, faults, wandering
from tests.rig import Node, Rig, until
from tests.rig.hosts import NOTHING_CHANGED, Hosts, tool_command

SEED = 7


@pytest.fixture(scope="module")
def three(rig_name: str) -> Iterator[Rig]:
    """A rig of alpha, beta and gamma."""
    rig = Rig(f"{rig_name}-three")
    rig.up(nodes=two_moves.NODES)
    yield rig
    rig.down()


@pytest.mark.checkered
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "own network"])
@pytest.mark.parametrize("way", CONTESTS)
def test_one_of_two_moves_it(three: Rig, way: str, connected: bool) -> None:
    """The two begin at an offset of a seed; scripts/faults two-moves does it more often."""
    result = two_moves.run(three, way, 1, SEED, connected=connected)
    assert result["faults"] == [], result
    assert sum(result["moved"].values()) >= 1


def test_one_of_two_moves_it_where_a_lock_alone_keeps_them_apart(three: Rig) -> None:
    """No link's name is in the way of a container that owns its network namespace."""
    with wandering(three, connected=False) as container:
        outcomes = container.contest("same target", 0.5)
        assert faults(*outcomes, container.running(), in_turn=False) == []


@pytest.mark.checkered
@pytest.mark.parametrize("target", ["beta", "gamma"])
@pytest.mark.parametrize("state", ["PREPARED", "ARMED", "FROZEN", "HELD"])
def test_the_second_is_told_who_has_it_and_takes_nothing_away(
    three: Rig, state: str, target: str
) -> None:
    """The second move could take away the rules that lock the frozen container's network."""
    with wandering(three, connected=True) as container:
        again = tool_command("at_state", "migrate_again", state, target)
        done = three.node("alpha").run(again, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert container.running() == ["beta"]
        assert container.client is not None
        assert container.client.finish()["error"] is None
    other: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
    assert other["status"] == CODES[errors.AlreadyMoving], other["said"]
    assert "from alpha to beta, since 2" in other["said"]
    assert NOTHING_CHANGED in other["said"]
    assert other["after"] == other["before"]
    assert ("CRIU" in other["before"]) == (state in ("FROZEN", "HELD"))


def locks(node: Node) -> str:
    """Return the names of the locks on a node."""
    return node.run(["ls", "/run/migrate/locks"]).stdout


def test_a_move_that_was_killed_keeps_nobody_from_the_next(three: Rig) -> None:
    """The lock of a move goes with it, on both hosts; nothing looks at the age of a file."""
    hosts = Hosts.of(three)
    alpha, beta = hosts.both
    before = hosts.traces()
    with wandering(three, connected=True) as container:
        crashed = alpha.run(tool_command("at_state", "crash_both", "PREPARED"), check=False)
        assert crashed.returncode == -signal.SIGKILL
        assert "runc-redis" in locks(alpha)
        # beta's agent needs a moment to notice.
        until(
            lambda: two_moves.move(alpha, beta).status == 0,
            "the next move to succeed",
            timeout_s=20,
        )
        assert container.running() == ["beta"]
        assert locks(alpha) == locks(beta) == ""
        assert container.client is not None
        assert container.client.finish()["error"] is None
    remove = "for d in /run/migrate/*/; do umount -l $d; rmdir $d; done"
    alpha.run(["sh", "-c", remove], check=False)
    assert hosts.new_traces(before) == {}
