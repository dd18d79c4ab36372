"""A move that fails takes every step back, and removes what it made: not what came to have the same name meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.clients import REDIS_PORT, RedisClient, ask
from tests.integration.conftest import (
    BROKEN,
    REDIS,
    REDIS_ADDRESS,
    Hosts,
    settled,
    traces,
    without,
)
from tests.rig import Container, until
from tests.rig.engine import EngineContainer
from tests.services import REDIS_IMAGE as IMAGE

ROLLED_BACK = CODES[errors.RolledBack]


@pytest.fixture
def innocent(hosts: Hosts) -> Iterator[Container]:
    """A bundle on beta, and the command that has runc run it as `redis`."""
    container = hosts.beta.start_container("other", ip="10.77.0.51", argv=["sleep", "1000"])
    hosts.beta.run(["runc", "delete", "--force", "other"])
    yield container
    for name in ("redis", "other"):
        hosts.beta.run(["runc", "delete", "--force", name], check=False)
    container.remove()


def test_a_container_that_was_started_on_the_target_meanwhile_stays(
    hosts: Hosts, redis: Container, innocent: Container
) -> None:
    """It has the name, and came after the tool had looked for it."""
    start = f"runc run -d --bundle {innocent.bundle} redis > /dev/null 2>&1 < /dev/null"
    before = traces(hosts.alpha)
    with RedisClient(hosts.rig.switch, REDIS_ADDRESS) as client:
        done = hosts.migrate_with("at_state", "on_target", "PREPARED", start)
        seen = client.finish()
    assert done.returncode == ROLLED_BACK, done.stderr
    assert "a runc container named 'redis' was started on the target meanwhile" in done.stderr
    assert Container(node=hosts.beta, name="redis", address="").status == "running"
    assert redis.status == "running"
    assert seen["contiguous"]
    assert settled(hosts.alpha, before) == {}


@pytest.mark.parametrize("what", ["bundle", "network"])
def test_what_has_a_name_again_on_the_target_stays(
    hosts: Hosts, redis: Container, what: str
) -> None:
    """Somebody removed what the move had made, and made his own of that name."""
    again = {
        "bundle": "mv /srv/containers/redis /srv/containers/old; mkdir -p /srv/containers/redis;"
        " echo mine > /srv/containers/redis/precious",
        "network": "ip link delete v-redis; ip netns delete redis; ip netns add redis;"
        " ip link add v-redis type veth peer name eth0 netns redis",
    }[what]
    look = {
        "bundle": "cat /srv/containers/redis/precious",
        "network": "ip -n redis link show eth0 && ip link show v-redis",
    }
    done = hosts.migrate_with("at_state", "on_target_and_fail", "PREPARED", again)
    assert done.returncode == ROLLED_BACK, done.stderr
    found = hosts.beta.run(["sh", "-c", look[what]], check=False)
    hosts.beta.run(["sh", "-c", "ip link delete v-redis; ip netns delete redis"], check=False)
    assert found.returncode == 0, found.stderr
    assert redis.status == "running"


@pytest.fixture
def podman_redis(hosts: Hosts, engine: str) -> Iterator[EngineContainer]:
    container = EngineContainer.start(
        hosts.alpha,
        engine,
        "redis",
        IMAGE,
        REDIS,
        address=REDIS_ADDRESS,
        options=("--volume", "kept:/data"),
    )
    yield container
    for node in (hosts.alpha, hosts.beta):
        container.on(node).remove()
        node.run([engine, "volume", "rm", "--force", "kept"], check=False)
        node.run(["sh", "-c", "rm -rf /var/lib/migrate"])


@pytest.mark.parametrize("engine", ["podman"], indirect=True)
def test_podmans_container_that_was_started_meanwhile_stays(
    hosts: Hosts, podman_redis: EngineContainer
) -> None:
    start = f"podman run -d --name redis {IMAGE} sleep 1000"
    done = hosts.migrate_with("at_state", "on_target", "PREPARED", start)
    assert done.returncode == ROLLED_BACK, done.stderr
    assert "a podman container named 'redis' was started on the target meanwhile" in done.stderr
    there = podman_redis.on(hosts.beta).inspect()
    assert there is not None
    assert there["State"]["Status"] == "running"
    assert there["Config"]["Cmd"] == ["sleep", "1000"]
    assert podman_redis.status == "running"


@pytest.mark.parametrize("engine", ["podman"], indirect=True)
def test_podmans_volume_that_has_the_name_again_stays(
    hosts: Hosts, podman_redis: EngineContainer
) -> None:
    again = "podman volume rm kept && podman volume create --label whose=mine kept"
    with without(hosts.beta, "/usr/sbin/criu", BROKEN):
        done = hosts.migrate_with("at_state", "on_target", "PREPARED", again)
    assert done.returncode == ROLLED_BACK, done.stderr
    assert podman_redis.on(hosts.beta).inspect() is None
    labels = hosts.beta.run(
        ["podman", "volume", "inspect", "--format", "{{.Labels}}", "kept"]
    ).stdout
    assert labels.strip() == "map[whose:mine]"
    assert podman_redis.status == "running"


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_a_step_that_fails_keeps_no_other_from_being_taken(hosts: Hosts, engine: str) -> None:
    """docker on the source has gone when its restart policy is to be put back: all the same the container is thawed,
    first, and the target drops what it holds."""
    options = ("--restart", "always")
    redis = EngineContainer.start(
        hosts.alpha, engine, "redis", IMAGE, REDIS, address=REDIS_ADDRESS, options=options
    )
    try:
        until(
            lambda: ask(hosts.rig.switch, REDIS_ADDRESS, REDIS_PORT, "PING") == "+PONG",
            "redis to answer",
        )
        with RedisClient(hosts.rig.switch, REDIS_ADDRESS) as client:
            done = hosts.migrate_with("at_state", "lose_docker_and_fail", "HELD")
            seen = client.finish()
        assert done.returncode == ROLLED_BACK, done.stderr
        assert "on the source" in done.stderr
        assert seen["contiguous"]
        assert redis.status == "running"
        assert redis.on(hosts.beta).inspect() is None, done.stderr
        assert hosts.beta.run(["migratectl", "status"]).stdout == ""
        redis.do("update", "--restart", "always", "redis")
        there = hosts.move(redis, hosts.alpha)[0].inspect()
        assert there is not None
        assert there["HostConfig"]["RestartPolicy"]["Name"] == "always"
    finally:
        for node in (hosts.alpha, hosts.beta):
            redis.on(node).remove()
