"""The target is reached through a third host; whatever stops on the way ends the move in time."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from migrate.cli.exit_codes import CODES
from migrate.errors import RolledBack, TargetUnreachable
from tests.rig import Container, Node, Redis, Rig, until
from tests.rig.hosts import Hosts, tool_command
from tests.rig.workload import start_redis

JUMP = "Host beta\n  ProxyJump gamma\n"
COMMAND = "Host beta\n  ProxyCommand ssh -W %h:%p gamma\n"
#: Sends a signal to all processes whose command line matches, but not to the shell itself.
EACH = "for p in $(pgrep -f '{what}'); do [ $p = $$ ] || kill -{signal} $p; done"
#: A silence of 15 s ends a connection (transport/keepalive.py); the rest of the time is for the
#: roll-back on a slow machine.
GONE_S = 25.0


@pytest.fixture(scope="module")
def three(rig_name: str) -> Iterator[Rig]:
    """A rig of alpha, beta and gamma."""
    rig = Rig(f"{rig_name}-proxies")
    rig.up(nodes=3)
    yield rig
    rig.down()


@pytest.fixture
def hosts(three: Rig) -> Iterator[Hosts]:
    """alpha and beta; alpha reaches beta's sshd through gamma alone."""
    hosts = Hosts.of(three)
    script = (
        "nft add table inet wall"
        " && nft 'add chain inet wall in {type filter hook input priority 0;}'"
        f" && nft add rule inet wall in ip saddr {hosts.alpha.address} tcp dport 22 reject"
    )
    hosts.beta.run(["sh", "-c", script])
    before = hosts.traces()
    yield hosts
    for node in hosts.both:
        Container(node=node, name="redis", address="").remove()
    assert hosts.settled(before) == {}
    hosts.beta.run(["nft", "delete", "table", "inet", "wall"])
    hosts.alpha.run(["rm", "-f", "/root/.ssh/config"])


@pytest.fixture
def redis(hosts: Hosts) -> Redis[Container]:
    """redis in a container of runc's on alpha."""
    return start_redis(hosts.alpha)


def configure(hosts: Hosts, config: str) -> None:
    """Have alpha's ssh(1) use this configuration."""
    hosts.alpha.run(["sh", "-c", "cat > /root/.ssh/config"], input=config)


def forgotten(node: Node) -> bool:
    """Return whether no agent is left on a node.

    An agent that was still sent all that it needed holds what it restored. It is told to drop it.
    """
    for line in node.run(["migratectl", "status"]).stdout.splitlines():
        if "is held" in line:
            node.run(["migratectl", "recover", line.partition(":")[0], "--abort"], check=False)
    of_a_move = ["find", "/run/migrate", "-mindepth", "1", "-name", "?" * 12]
    return not node.run(of_a_move, check=False).stdout


@pytest.mark.parametrize("config", [JUMP, COMMAND])
def test_a_move_through_a_third_host_keeps_the_client(
    hosts: Hosts, redis: Redis[Container], config: str
) -> None:
    assert hosts.migrate(hosts.alpha, "redis", "beta").returncode == CODES[TargetUnreachable]
    configure(hosts, config)
    with redis.client() as client:
        hosts.move(redis)
        seen = client.finish()
    assert seen["contiguous"]
    assert "ssh -W" not in hosts.alpha.run(["ps", "-eo", "args"]).stdout


@pytest.mark.parametrize(
    ("config", "why"), [("ProxyJump nowhere", "nowhere"), ("ProxyCommand echo oh no >&2", "oh no")]
)
def test_a_proxy_that_leads_nowhere_is_told(
    hosts: Hosts, redis: Redis[Container], config: str, why: str
) -> None:
    configure(hosts, f"Host beta\n  {config}\n")
    done = hosts.migrate(hosts.alpha, "redis", "beta")
    assert done.returncode == CODES[TargetUnreachable], done.stderr
    assert "through its proxy" in done.stderr
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("state", [pytest.param("PREPARED", marks=pytest.mark.thorough), "FROZEN"])
@pytest.mark.parametrize(
    ("config", "stopped", "what"),
    [
        pytest.param(JUMP, "gamma", "^sshd-session:", id="jump host"),
        pytest.param(COMMAND, "alpha", "^ssh -W", id="proxy command", marks=pytest.mark.thorough),
    ],
)
def test_a_proxy_that_stops_is_gone_around_or_ends_the_move(
    hosts: Hosts, redis: Redis[Container], config: str, stopped: str, what: str, state: str
) -> None:
    configure(hosts, config)
    place: Node = hosts.rig.node(stopped)
    pipe = subprocess.PIPE
    # The bound of the freeze, which is nearer otherwise, is not what is tried here.
    argv = tool_command("at_state", "wait", state, "--", "--max-frozen", "60")
    move = hosts.alpha.popen(argv, stdout=pipe, stderr=pipe)
    with redis.client() as client:
        waits = ["test", "-e", "/run/waits"]
        until(lambda: hosts.alpha.run(waits, check=False).returncode == 0, "the move to get there")
        place.run(["sh", "-c", EACH.format(what=what, signal="STOP")])
        try:
            hosts.alpha.run(["rm", "/run/waits"])
            begun = time.monotonic()
            _, said = move.communicate(timeout=60)
            took_s = time.monotonic() - begun
        finally:
            place.run(["sh", "-c", EACH.format(what=what, signal="CONT")])
        until(lambda: forgotten(hosts.beta), "beta to forget it")
        # Another connection through the same proxy goes by another process.
        is_made_again = state == "PREPARED"
        assert move.returncode == (0 if is_made_again else CODES[RolledBack]), said
        assert is_made_again or took_s < GONE_S
        assert ("connected to beta again" in said) is is_made_again
        client.goes_on()
        seen = client.finish()
    assert seen["contiguous"]
    assert redis.on(hosts.beta if is_made_again else hosts.alpha).status == "running"
