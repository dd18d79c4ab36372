"""A move whose programs are killed or hang ends by itself, or by `migratectl recover`."""

import json
import signal

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from migrate.decisions.state import State
from tests.rig import Container, Node, Redis, until
from tests.rig.clients import Client
from tests.rig.hosts import Hosts, tool_command

#: A command that stops the agent on the target, whose pid is in its lock of the container.
STOP_AGENT = "kill -STOP $(sed 's/.*process //' /run/migrate/locks/*-redis)"


def crash_at(hosts: Hosts, state: State, act: str = "crash") -> str:
    """Run a move whose coordinator is killed in that state, and return the migration's id."""
    done = hosts.migrate_with("at_state", act, state.name, "--", "--max-frozen", "3")
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.strip()


def ended(node: Node, migration: str) -> bool:
    """Return whether the node's journal of a migration has its end."""
    found = json.loads(node.run(["migratectl", "status", "--json"]).stdout)["migrations"]
    return any(each["id"] == migration and each["condition"] == "ended" for each in found)


@pytest.mark.parametrize(
    "state", [State.PREPARED, State.ARMED, State.FROZEN, State.HELD, State.KILLING]
)
def test_the_container_goes_on_if_the_coordinator_is_killed(
    hosts: Hosts, client: Client, redis: Redis[Container], state: State
) -> None:
    """The source's CRIU thaws the container; the guardian cleans up, and has the copy dropped."""
    before = hosts.traces()
    migration = crash_at(hosts, state)
    client.goes_on()
    assert redis.status == "running"
    assert hosts.settled(before) == {}
    assert ended(hosts.alpha, migration)


def test_the_guardian_finishes_if_the_coordinator_is_killed_after_the_kill(
    hosts: Hosts, client: Client, redis: Redis[Container]
) -> None:
    migration = crash_at(hosts, State.KILLED)
    client.goes_on()
    assert redis.on(hosts.beta).status == "running"
    until(lambda: redis.status is None, "the source to be cleaned up")
    until(lambda: ended(hosts.alpha, migration), "the journal's end")
    hosts.move(redis.on(hosts.beta))
    client.goes_on()


@pytest.mark.parametrize("state", [State.FROZEN, State.KILLED])
def test_a_coordinator_that_hangs_is_ended_when_the_freeze_has_lasted_too_long(
    hosts: Hosts, client: Client, redis: Redis[Container], state: State
) -> None:
    """It is stopped, and cannot see the limit of the freeze itself."""
    command = tool_command("at_state", "stop", state.name, "--", "--max-frozen", "3")
    # The shell waits only for the end: what enters the node would stop with the program.
    done = hosts.alpha.run(["sh", "-c", '"$@"; exit $?', "sh", *command], check=False)
    assert done.returncode == 128 + signal.SIGKILL, done.stderr
    client.goes_on()
    now = redis.on(hosts.beta) if state is State.KILLED else redis
    assert now.status == "running"
    if state is State.KILLED:
        until(lambda: redis.status is None, "the source to be cleaned up")
        hosts.move(now)


@pytest.mark.checkered
@pytest.mark.parametrize("state", [State.HELD, State.KILLED])
@pytest.mark.parametrize("from_the_target", [False, True])
def test_recover_ends_what_has_lost_its_guardian_too(
    hosts: Hosts, client: Client, redis: Redis[Container], state: State, from_the_target: bool
) -> None:
    """Whether the source's container lives decides, from whichever host that is asked."""
    before = hosts.traces()
    migration = crash_at(hosts, state, "crash_both")
    recover = ["migratectl", "recover", migration]
    if state is State.HELD:
        refused = hosts.alpha.run([*recover, "--go", "--source-is-dead"], check=False)
        assert refused.returncode == 62
        assert "and would run twice" in refused.stderr
    else:
        refused = hosts.alpha.run([*recover, "--abort"], check=False)
        assert refused.returncode == 62
        assert "is the only copy" in refused.stderr
    if from_the_target:
        hosts.beta.run([*recover, "--on", "alpha"])
        client.goes_on()
    hosts.alpha.run(recover)
    client.goes_on()
    now = redis.on(hosts.beta) if state is State.KILLED else redis
    assert now.status == "running"
    if state is State.KILLED:
        assert redis.status is None
        hosts.move(now)
    else:
        assert hosts.settled(before) == {}
    assert (
        hosts.alpha.run(recover)
        .stdout.strip()
        .endswith("rolled back" if state is State.HELD else "done")
    )


@pytest.mark.parametrize(
    "state", [State.FROZEN, pytest.param(State.HELD, marks=pytest.mark.thorough), State.KILLED]
)
def test_an_agent_that_hangs_keeps_nobody_frozen(
    hosts: Hosts, client: Client, redis: Redis[Container], state: State
) -> None:
    """Before the kill the source goes on; after it the target is told GO in another way."""
    before = hosts.traces()
    options = ["--", "--max-frozen", "3"]
    done = hosts.migrate_with("at_state", "on_target", state.name, STOP_AGENT, *options)
    client.goes_on()
    if state is not State.KILLED:
        assert done.returncode == CODES[errors.FrozenTooLong], done.stderr
        assert redis.status == "running"
        assert hosts.settled(before) == {}
    else:
        assert done.returncode == 0, done.stderr
        assert redis.status is None
        hosts.move(redis.on(hosts.beta))
    client.goes_on()
