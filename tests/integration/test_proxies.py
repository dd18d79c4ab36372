"""The target is reached through a third host; whatever stops on the way ends the move within seconds."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from migrate.cli.exit_codes import CODES
from migrate.errors import RolledBack, TargetUnreachable
from tests.clients import REDIS_PORT, RedisClient, ask
from tests.integration.conftest import (
    REDIS,
    REDIS_ADDRESS,
    Hosts,
    settled,
    tool_command,
    traces,
)
from tests.rig import Container, Node, Rig, until

JUMP = "Host beta\n  ProxyJump gamma\n"
COMMAND = "Host beta\n  ProxyCommand ssh -W %h:%p gamma\n"
EACH = "for p in $(pgrep -f '{what}'); do [ $p = $$ ] || kill -{signal} $p; done"
#: A silence of 15 s ends a connection (transport/keepalive.py); the rest is the roll-back, on a slow machine.
GONE_S = 25.0


@pytest.fixture(scope="module")
def three(rig_name: str) -> Iterator[Rig]:
    rig = Rig(f"{rig_name}-proxies")
    rig.up(nodes=3)
    yield rig
    rig.down()


@pytest.fixture
def hosts(three: Rig) -> Iterator[Hosts]:
    """alpha and beta, which see each other's sshd through gamma alone."""
    hosts = Hosts(rig=three, alpha=three.node("alpha"), beta=three.node("beta"))
    script = (
        "nft add table inet wall && nft 'add chain inet wall in {type filter hook input priority 0;}' && "
        + (f"nft add rule inet wall in ip saddr {hosts.alpha.address} tcp dport 22 reject")
    )
    hosts.beta.run(["sh", "-c", script])
    before = {node.name: traces(node) for node in three.nodes}
    yield hosts
    for node in (hosts.alpha, hosts.beta):
        Container(node=node, name="redis", address=REDIS_ADDRESS).remove()
        assert settled(node, before[node.name]) == {}
    hosts.beta.run(["nft", "delete", "table", "inet", "wall"])
    hosts.alpha.run(["rm", "-f", "/root/.ssh/config"])


@pytest.fixture
def redis(hosts: Hosts) -> Container:
    container = hosts.alpha.start_container("redis", ip=REDIS_ADDRESS, argv=REDIS)
    until(
        lambda: ask(hosts.rig.switch, REDIS_ADDRESS, REDIS_PORT, "PING") == "+PONG",
        "redis to answer",
    )
    return container


def configure(hosts: Hosts, config: str) -> None:
    hosts.alpha.run(["sh", "-c", "cat > /root/.ssh/config"], input=config)


def forgotten(node: Node) -> bool:
    """Whether no agent is left there. One that was still sent all it needed holds what it restored: it is told."""
    for line in node.run(["migratectl", "status"]).stdout.splitlines():
        if "is held" in line:
            node.run(["migratectl", "recover", line.partition(":")[0], "--abort"], check=False)
    return not node.run(
        ["find", "/run/migrate", "-mindepth", "1", "-name", "????????????"], check=False
    ).stdout


@pytest.mark.parametrize("config", [JUMP, COMMAND])
def test_a_move_through_a_third_host(hosts: Hosts, redis: Container, config: str) -> None:
    assert hosts.migrate(hosts.alpha, "redis", "beta").returncode == CODES[TargetUnreachable]
    configure(hosts, config)
    with RedisClient(hosts.rig.switch, REDIS_ADDRESS) as client:
        done = hosts.migrate(hosts.alpha, "redis", "beta")
        assert done.returncode == 0, done.stderr
        seen = client.finish()
    assert seen["contiguous"]
    assert "ssh -W" not in hosts.alpha.run(["ps", "-eo", "args"]).stdout


@pytest.mark.parametrize(
    ("config", "why"), [("ProxyJump nowhere", "nowhere"), ("ProxyCommand echo oh no >&2", "oh no")]
)
def test_a_proxy_that_leads_nowhere(hosts: Hosts, redis: Container, config: str, why: str) -> None:
    configure(hosts, f"Host beta\n  {config}\n")
    done = hosts.migrate(hosts.alpha, "redis", "beta")
    assert done.returncode == CODES[TargetUnreachable], done.stderr
    assert "through its proxy" in done.stderr
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.checkered
@pytest.mark.parametrize("state", ["PREPARED", "FROZEN"])
@pytest.mark.parametrize(
    ("config", "stopped", "what"),
    [(JUMP, "gamma", "^sshd-session:"), (COMMAND, "alpha", "^ssh -W")],
    ids=["jump host", "proxy command"],
)
def test_what_stops_in_between(
    hosts: Hosts, redis: Container, config: str, stopped: str, what: str, state: str
) -> None:
    configure(hosts, config)
    place: Node = hosts.rig.node(stopped)
    move = hosts.alpha.popen(
        tool_command("at_state", "wait", state), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with RedisClient(hosts.rig.switch, REDIS_ADDRESS) as client:
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
        assert move.returncode == CODES[RolledBack], said
        assert took_s < GONE_S
        assert "the container runs on the source" in said
        client.mark("now")
        until(lambda: client.mark("later")["count"] > 10, "replies")
        seen = client.finish()
    assert seen["contiguous"]
    assert redis.status == "running"
