"""A move that fails takes every step back, and removes what it made.

It leaves alone what somebody else made meanwhile and gave the same name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.rig import Container, EngineContainer, Node, Redis, until
from tests.rig.hosts import Hosts
from tests.rig.services import REDIS_IMAGE
from tests.rig.traces import settled, traces
from tests.rig.without import BROKEN_CRIU, CRIU, Without
from tests.rig.workload import ADDRESS, REDIS

ROLLED_BACK = CODES[errors.RolledBack]
INNOCENT_ADDRESS = "10.77.0.51"


@pytest.fixture
def innocent(hosts: Hosts) -> Iterator[Container]:
    """A bundle on beta, of which runc can make a container named `redis`."""
    container = hosts.beta.start_container("other", ip=INNOCENT_ADDRESS, argv=["sleep", "1000"])
    hosts.beta.run(["runc", "delete", "--force", "other"])
    yield container
    for name in ("redis", "other"):
        hosts.beta.run(["runc", "delete", "--force", name], check=False)
    container.remove()


def test_a_container_that_was_started_on_the_target_meanwhile_stays(
    hosts: Hosts, redis: Redis[Container], innocent: Container
) -> None:
    """Somebody started a container of the same name after the tool had looked for one."""
    start = f"runc run -d --bundle {innocent.bundle} redis > /dev/null 2>&1 < /dev/null"
    before = traces(hosts.alpha)
    with redis.client() as client:
        done = hosts.migrate_with("at_state", "on_target", "PREPARED", start)
        seen = client.finish()
    assert done.returncode == ROLLED_BACK, done.stderr
    assert "a runc container named 'redis' was started on the target meanwhile" in done.stderr
    assert redis.on(hosts.beta).status == "running"
    assert redis.status == "running"
    assert seen["contiguous"]
    assert settled(hosts.alpha, before) == {}


@pytest.mark.parametrize("what", ["bundle", "network"])
def test_what_has_a_name_again_on_the_target_stays(
    hosts: Hosts, redis: Redis[Container], what: str
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
    }[what]
    done = hosts.migrate_with("at_state", "on_target_and_fail", "PREPARED", again)
    assert done.returncode == ROLLED_BACK, done.stderr
    found = hosts.beta.run(["sh", "-c", look], check=False)
    hosts.beta.run(["sh", "-c", "ip link delete v-redis; ip netns delete redis"], check=False)
    assert found.returncode == 0, found.stderr
    assert redis.status == "running"


@pytest.fixture
def engine_redis(hosts: Hosts, engine: str) -> Iterator[EngineContainer]:
    """redis in a container of an engine's on alpha, with a volume."""
    options = ["--volume", "kept:/data"]
    container = EngineContainer.start(
        hosts.alpha, engine, "redis", REDIS_IMAGE, REDIS, address=ADDRESS, options=options
    )
    yield container
    for node in hosts.both:
        container.on(node).remove()
        until(partial(volume_is_gone, node, engine), "the volume to go")
        node.run(["sh", "-c", "rm -rf /var/lib/migrate"])


def volume_is_gone(node: Node, engine: str) -> bool:
    """Remove the volume if an engine has it and nobody uses it; return whether it is gone."""
    node.run([engine, "volume", "rm", "--force", "kept"], check=False)
    return "kept" not in node.run([engine, "volume", "ls", "--quiet"]).stdout.split()


@pytest.mark.parametrize("engine", ["podman"], indirect=True)
def test_podmans_container_that_was_started_meanwhile_stays(
    hosts: Hosts, engine_redis: EngineContainer
) -> None:
    start = f"podman run -d --name redis {REDIS_IMAGE} sleep 1000"
    done = hosts.migrate_with("at_state", "on_target", "PREPARED", start)
    assert done.returncode == ROLLED_BACK, done.stderr
    assert "a podman container named 'redis' was started on the target meanwhile" in done.stderr
    innocent = engine_redis.on(hosts.beta).inspect()
    assert innocent is not None
    assert innocent["State"]["Status"] == "running"
    assert innocent["Config"]["Cmd"] == ["sleep", "1000"]
    assert engine_redis.status == "running"


@pytest.mark.parametrize("engine", ["podman"], indirect=True)
def test_podmans_volume_that_has_the_name_again_stays(
    hosts: Hosts, engine_redis: EngineContainer
) -> None:
    again = "podman volume rm kept && podman volume create --label whose=mine kept"
    with Without(hosts.beta, CRIU, BROKEN_CRIU):
        done = hosts.migrate_with("at_state", "on_target", "PREPARED", again)
    assert done.returncode == ROLLED_BACK, done.stderr
    assert engine_redis.on(hosts.beta).inspect() is None
    look = ["podman", "volume", "inspect", "--format", "{{.Labels}}", "kept"]
    assert hosts.beta.run(look).stdout.strip() == "map[whose:mine]"
    assert engine_redis.status == "running"


#: A command that kills the agent on the target, whose pid is in its lock of the container.
KILL_AGENT = "kill -KILL $(sed 's/.*process //' /run/migrate/locks/*-redis)"


def check_the_next_move_is_as_ever(hosts: Hosts) -> None:
    """Check that a move whose agent is killed is rolled back, and that the next one succeeds.

    Another agent, which is sent to say ABORT, undoes what the killed one has made.
    """
    done = hosts.migrate_with("at_state", "on_target", "FROZEN", KILL_AGENT)
    assert done.returncode == ROLLED_BACK, done.stderr
    assert "which was cut off, is undone on this host: " in done.stderr
    done = hosts.migrate(hosts.alpha, "redis", "beta")
    assert done.returncode == 0, done.stderr
    found = json.loads(hosts.beta.run(["migratectl", "status", "--json"]).stdout)
    states = [(each["condition"], each["state"]) for each in found["migrations"]]
    assert states[-2:] == [("ended", "aborted"), ("ended", "finished")]


def test_what_a_killed_agent_made_goes_with_the_next_move(
    hosts: Hosts, redis: Redis[Container]
) -> None:
    with redis.client() as client:
        check_the_next_move_is_as_ever(hosts)
        seen = client.finish()
    assert seen["contiguous"]
    assert redis.on(hosts.beta).status == "running"


@pytest.mark.parametrize(
    "engine", [pytest.param("podman", marks=pytest.mark.thorough), "docker"], indirect=True
)
def test_what_a_killed_agent_made_in_an_engine_goes_with_the_next_move(
    hosts: Hosts, engine_redis: EngineContainer
) -> None:
    check_the_next_move_is_as_ever(hosts)
    assert engine_redis.on(hosts.beta).status == "running"
    assert engine_redis.inspect() is None


@pytest.mark.checkered
@pytest.mark.parametrize("engine", ["podman", "docker"], indirect=True)
@pytest.mark.parametrize("state", ["HELD", "KILLED"])
def test_an_agent_that_is_killed_while_it_holds_an_engines_container_loses_nothing(
    hosts: Hosts, engine_redis: EngineContainer, state: str
) -> None:
    """The keeper drops the copy before the kill on the source, and runs it after that."""
    with Redis(container=engine_redis).ready().client() as client:
        done = hosts.migrate_with("at_state", "on_target", state, f"{KILL_AGENT}; sleep 0.5")
        seen = client.finish()
    there = engine_redis.on(hosts.beta)
    if state == "HELD":
        assert done.returncode == ROLLED_BACK, done.stderr
        assert (engine_redis.status, there.inspect()) == ("running", None)
        volumes = hosts.beta.run([engine_redis.engine, "volume", "ls", "--quiet"]).stdout
        assert "kept" not in volumes
    else:
        assert done.returncode == 0, done.stderr
        assert (engine_redis.inspect(), there.status) == (None, "running")
    assert seen["error"] is None
    assert seen["contiguous"]


#: A command that kills the engine's restore, and the runtime beneath it.
KILL_RESTORE = {
    "podman": "kill -KILL $(pgrep -x podman) $(pgrep -x crun); sleep 0.1",
    "docker": "kill -KILL $(pgrep -x docker) $(pgrep -x runc); sleep 0.1",
}


@pytest.mark.parametrize(
    "engine", [pytest.param("podman", marks=pytest.mark.thorough), "docker"], indirect=True
)
def test_an_engines_restore_that_is_killed_after_the_sources_death_is_made_again(
    hosts: Hosts, engine_redis: EngineContainer
) -> None:
    """Also the files are there again: podman makes the container anew, and docker keeps it."""
    with Redis(container=engine_redis).ready().client() as client:
        kill = KILL_RESTORE[engine_redis.engine]
        done = hosts.migrate_with("at_state", "on_target", "KILLED", kill)
        seen = client.finish()
    assert done.returncode == 0, done.stderr
    assert (engine_redis.inspect(), engine_redis.on(hosts.beta).status) == (None, "running")
    assert seen["error"] is None
    assert seen["contiguous"]


#: Asks an engine for the restart policy of redis.
POLICY = ["inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", "redis"]


@pytest.mark.parametrize(
    "engine", [pytest.param("podman", marks=pytest.mark.thorough), "docker"], indirect=True
)
def test_what_a_killed_coordinator_changed_is_given_back_by_the_next_move(
    hosts: Hosts, engine: str
) -> None:
    container = EngineContainer.start(
        hosts.alpha,
        engine,
        "redis",
        REDIS_IMAGE,
        REDIS,
        address=ADDRESS,
        options=["--restart", "always"],
    )
    try:
        hosts.migrate_with("at_state", "crash_both", "FROZEN")
        assert container.do(*POLICY).strip() == "no"
        done = hosts.migrate(hosts.alpha, "redis", "beta")
        assert done.returncode == 0, done.stderr
        assert f"is undone on this host: {engine}'s restart policy of 'redis'" in done.stderr
        assert container.on(hosts.beta).do(*POLICY).strip() == "always"
    finally:
        for node in hosts.both:
            container.on(node).remove()


@pytest.mark.parametrize(
    "engine", ["podman", pytest.param("docker", marks=pytest.mark.thorough)], indirect=True
)
def test_a_container_that_ends_by_itself_is_started_again_as_its_policy_wants(
    hosts: Hosts, engine: str
) -> None:
    """Its engine could not do that itself: the policy was "no" for the time of the move."""
    options = ["--restart", "always"]
    container = EngineContainer.start(
        hosts.alpha, engine, "redis", REDIS_IMAGE, REDIS, address=ADDRESS, options=options
    )
    try:
        done = hosts.migrate_with("at_state", "kill_container", "ARMED")
        assert done.returncode == CODES[errors.ContainerEnded], done.stderr
        assert "; its engine has started it there again; " in done.stderr
        assert (container.status, container.do(*POLICY).strip()) == ("running", "always")
        assert container.on(hosts.beta).inspect() is None
    finally:
        container.remove()


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_a_step_that_fails_keeps_no_other_from_being_taken(hosts: Hosts, engine: str) -> None:
    """docker on the source is gone when it should put back the container's restart policy.

    The container is thawed all the same, first, and the target drops what it holds.
    """
    options = ["--restart", "always"]
    container = EngineContainer.start(
        hosts.alpha, engine, "redis", REDIS_IMAGE, REDIS, address=ADDRESS, options=options
    )
    try:
        redis = Redis(container=container).ready()
        with redis.client() as client:
            done = hosts.migrate_with("at_state", "lose_docker_and_fail", "HELD")
            seen = client.finish()
        assert done.returncode == ROLLED_BACK, done.stderr
        assert "on the source" in done.stderr
        assert seen["contiguous"]
        assert redis.status == "running"
        assert container.on(hosts.beta).inspect() is None, done.stderr
        found = json.loads(hosts.beta.run(["migratectl", "status", "--json"]).stdout)
        assert {each["condition"] for each in found["migrations"]} == {"ended"}
        container.do("update", "--restart", "always", "redis")
        moved = hosts.move(container)[0].inspect()
        assert moved is not None
        assert moved["HostConfig"]["RestartPolicy"]["Name"] == "always"
    finally:
        for node in hosts.both:
            container.on(node).remove()
