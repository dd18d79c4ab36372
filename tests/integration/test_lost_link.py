"""A connection that is lost while the container runs is made again, and the move goes on."""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from subprocess import CompletedProcess

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from migrate.decisions.state import State
from tests.rig import Container, Redis, until
from tests.rig.clients import Client
from tests.rig.hosts import Hosts

MIB = 1 << 20
#: The memory of the container, and how fast it is sent: for more than four seconds.
FILLED_MIB, SLOWLY = 48, ["--bandwidth-limit", "12M"]
#: Has every segment to sshd answered by a reset, which ends the connections it belongs to.
CUT = "add table inet cut; add chain inet cut in { type filter hook input priority -400; };"
CUT += " add rule inet cut in tcp dport 22 reject with tcp reset"


def arrived_bytes(hosts: Hosts) -> int:
    """Return how much has ever come to the target."""
    return int(hosts.beta.run(["cat", "/sys/class/net/eth0/statistics/rx_bytes"]).stdout)


def slow_move(hosts: Hosts, threads: ThreadPoolExecutor) -> Future[CompletedProcess[str]]:
    """Begin a move, and return it once a part of the memory has come."""
    before = arrived_bytes(hosts)
    words = ["redis", "beta", "--json", *SLOWLY]
    begun = threads.submit(hosts.migrate, hosts.alpha, *words)
    until(lambda: begun.done() or arrived_bytes(hosts) > before + 8 * MIB, "a part of the memory")
    return begun


def test_what_the_target_has_is_not_sent_again(
    hosts: Hosts, client: Client, redis: Redis[Container]
) -> None:
    """All connections break: the agent's, those of the page channels, and ssh's tries for 1 s."""
    redis.fill(FILLED_MIB)
    digest = redis.digest()
    with ThreadPoolExecutor(1) as threads:
        move = slow_move(hosts, threads)
        hosts.beta.run(["sh", "-c", f"nft '{CUT}' && sleep 1 && nft delete table inet cut"])
        done = move.result()
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert any("connected to beta again" in note for note in report["notes"]), report["notes"]
    sent = report["bytes_sent"]["pages"]
    assert sent < 1.5 * report["memory_bytes"], "what was on its way was sent again, and no more"
    client.goes_on()
    moved = redis.on(hosts.beta)
    assert moved.digest() == digest
    hosts.move(moved)
    client.goes_on()


@pytest.mark.parametrize(
    "state", [pytest.param(State.PREPARED, marks=pytest.mark.thorough), State.ARMED]
)
def test_the_agents_connection_alone_is_made_again(
    hosts: Hosts, client: Client, redis: Redis[Container], state: State
) -> None:
    done = hosts.migrate_with("at_state", "lose_link", state.name)
    assert done.returncode == 0, done.stderr
    assert "connected to beta again" in done.stderr
    client.goes_on()
    assert redis.status is None
    assert redis.on(hosts.beta).status == "running"


def test_a_connection_that_stays_lost_ends_the_move_and_keeps_nobody_from_the_next(
    hosts: Hosts, client: Client, redis: Redis[Container]
) -> None:
    """The agent on the target still waits for the first move when the second one comes."""
    options = ["--", "--reconnect-timeout", "1"]
    done = hosts.migrate_with("at_state", "lose_host", "PREPARED", *options)
    assert done.returncode == CODES[errors.RolledBack], done.stderr
    assert "it could not be made again in" in done.stderr
    client.goes_on()
    hosts.move(redis)
    client.goes_on()


def test_a_lost_connection_ends_the_move_if_nobody_wants_it_made_again(
    hosts: Hosts, client: Client, redis: Redis[Container]
) -> None:
    before = hosts.traces()
    options = ["--", "--reconnect-timeout", "0"]
    done = hosts.migrate_with("at_state", "lose_link", "PREPARED", *options)
    assert done.returncode == CODES[errors.RolledBack], done.stderr
    client.goes_on()
    assert redis.status == "running"
    assert hosts.settled(before) == {}
