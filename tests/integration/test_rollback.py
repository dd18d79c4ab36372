"""Before the kill the container goes on where it was; after it, the target has it. Never both, never neither."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from migrate.decisions.state import State
from tests.clients import REDIS_PORT, RedisClient, ask
from tests.integration.conftest import (
    REDIS,
    REDIS_ADDRESS,
    Hosts,
    new_traces,
    settled,
    traces,
)
from tests.rig import Container, Node, until


@pytest.fixture
def client(hosts: Hosts, redis: Container) -> Iterator[RedisClient]:
    """The 1 ms client; whatever the test did to the move, its connection must have lived and lost nothing."""
    with RedisClient(hosts.rig.switch, REDIS_ADDRESS) as client:
        yield client
        seen = client.finish()
    assert seen["error"] is None
    assert seen["contiguous"]


def still_served(client: RedisClient) -> None:
    """Replies come again."""
    client.mark("now")
    until(lambda: client.mark("later")["count"] > 10, "replies")


def stop_when(hosts: Hosts, word: str, number: signal.Signals) -> "subprocess.Popen[str]":
    """Start a move and send the tool a signal as soon as it has said a word."""
    move = hosts.alpha.popen(
        ["migrate", "redis", "beta"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert move.stderr is not None
    for line in move.stderr:
        if word in line:
            move.send_signal(number)
            break
    return move


@pytest.mark.checkered
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("word", ["prepared", "armed"])
def test_interrupted_before_the_freeze(
    hosts: Hosts, client: RedisClient, redis: Container, word: str, number: signal.Signals
) -> None:
    before = {node.name: traces(node) for node in (hosts.alpha, hosts.beta)}
    move = stop_when(hosts, word, number)
    _, said = move.communicate(timeout=60)
    assert move.returncode == 128 + number, said
    assert "the container runs on the source" in said
    still_served(client)
    assert redis.status == "running"
    for node in (hosts.alpha, hosts.beta):
        assert settled(node, before[node.name]) == {}


def test_interrupted_in_the_freeze(hosts: Hosts, client: RedisClient, redis: Container) -> None:
    """Whether the signal came before the point of no return or after it, one host runs the container."""
    move = stop_when(hosts, "frozen", signal.SIGTERM)
    _, said = move.communicate(timeout=60)
    still_served(client)
    there = Container(node=hosts.beta, name="redis", address=REDIS_ADDRESS)
    if move.returncode == 0:
        assert (redis.status, there.status) == (None, "running")
    else:
        assert move.returncode == 128 + signal.SIGTERM, said
        assert (redis.status, there.status) == ("running", None)


@pytest.fixture
def another_redis_binary(hosts: Hosts) -> Iterator[Node]:
    """beta's redis is not alpha's, byte for byte: CRIU will not map it into the restored process."""
    program = hosts.beta.run(["readlink", "-f", "/usr/bin/redis-server"]).stdout.strip()
    hosts.beta.run(["sh", "-c", f"cp -p {program} {program}.kept && echo >> {program}"])
    yield hosts.beta
    hosts.beta.run(["mv", f"{program}.kept", program])


def test_target_that_fails_to_restore(
    hosts: Hosts, client: RedisClient, redis: Container, another_redis_binary: Node
) -> None:
    before = {node.name: traces(node) for node in (hosts.alpha, hosts.beta)}
    client.mark("before")
    done = hosts.migrate(hosts.alpha, "redis", "beta", "--json")
    assert done.returncode == CODES[errors.RolledBack], done.stderr
    said, report = done.stderr.splitlines()[-1], json.loads(done.stdout)
    assert "CRIU failed in restore: file usr/bin/redis" in said, "CRIU's own reason, in words"
    assert "make it the same file on both hosts" in said
    assert (report["error_kind"], report["cause_kind"], report["error"] in said) == (
        "RolledBack",
        "CriuFailed",
        True,
    )
    check_logs(hosts.alpha, report, said)
    still_served(client)
    assert redis.status == "running"
    assert [new_traces(before[n.name], traces(n)) for n in (hosts.alpha, hosts.beta)] == [{}, {}]


def check_logs(node: Node, report: Mapping[str, Any], said: str) -> None:
    """CRIU's logs of both hosts, which lay in RAM, are kept and named, for root alone."""
    directory = report["log_directory"]
    assert directory == f"/var/log/migrate/{report['migration_id']}"
    assert said.endswith(f"; logs: {directory}")
    modes = node.run(["sh", "-c", f"stat -c '%a %n' {directory} {directory}/*"]).stdout.split()
    assert modes[:2] == ["700", directory]
    assert set(modes[2::2]) == {"600"}
    names = {name.removeprefix(f"{directory}/") for name in modes[3::2]}
    assert names >= {
        "source-images-dump.log",
        "target-images-restore.log",
        "target-images-runtime.log",
    }
    assert names >= {"source-traceback.txt", "target-traceback.txt", "source-report.json"}
    assert "bad size" in node.run(["cat", f"{directory}/target-images-restore.log"]).stdout


def test_the_container_ended_while_it_was_moved(hosts: Hosts, redis: Container) -> None:
    """By somebody else, who was told that it did: nobody is told that it runs on, and it does not run on the target."""
    before = traces(hosts.beta)
    for state in (State.ARMED, State.FROZEN):
        done = hosts.migrate_with("at_state", "kill_container", state.name)
        assert done.returncode == CODES[errors.ContainerEnded], done.stderr
        said = done.stderr.splitlines()[-1]
        assert "the container ended on the source while it was moved" in said
        assert "the container runs nowhere" in said
        assert redis.status == "stopped"
        assert settled(hosts.beta, before) == {}
        redis.remove()
        if state is State.ARMED:
            redis = hosts.alpha.start_container("redis", ip=REDIS_ADDRESS, argv=REDIS)


def test_criu_killed_while_it_holds_the_container(hosts: Hosts, redis: Container) -> None:
    """The source may have run on since, so it is the only one that may; its network is unlocked for CRIU."""
    before = {node.name: traces(node) for node in (hosts.alpha, hosts.beta)}
    done = hosts.migrate_with("at_state", "kill_criu", "FROZEN")
    assert done.returncode == CODES[errors.RolledBack], done.stderr
    assert "CRIU ended while it held the frozen container" in done.stderr
    assert "may have been cut" in done.stderr
    assert ask(hosts.rig.switch, REDIS_ADDRESS, REDIS_PORT, "PING") == "+PONG"
    assert redis.status == "running"
    assert (
        hosts.alpha.run(
            ["nsenter", f"--net=/proc/{redis.pid}/ns/net", "nft", "list", "ruleset"]
        ).stdout
        == ""
    )
    for node in (hosts.alpha, hosts.beta):
        assert settled(node, before[node.name]) == {}


def crash_at(hosts: Hosts, state: State) -> str:
    """Run a move whose coordinator is killed in that state; the migration's id."""
    done = hosts.migrate_with("at_state", "crash", state.name)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.strip()


@pytest.fixture
def litter(hosts: Hosts) -> Iterator[None]:
    """A killed coordinator cannot take down its image directory, nor its lock's file; the tests that kill one do."""
    yield
    script = "rm -r /run/migrate/locks; for d in /run/migrate/*/; do umount -l $d; rmdir $d; done"
    hosts.alpha.run(["sh", "-c", script], check=False)


@pytest.mark.parametrize("state", [State.PREPARED, State.ARMED, State.FROZEN])
def test_coordinator_killed_before_the_target_holds(
    hosts: Hosts, litter: None, client: RedisClient, redis: Container, state: State
) -> None:
    """The source's CRIU thaws by itself, the agent cleans up by itself."""
    before = traces(hosts.beta)
    crash_at(hosts, state)
    still_served(client)
    assert redis.status == "running"
    assert settled(hosts.beta, before) == {}


def test_coordinator_killed_while_the_target_holds(
    hosts: Hosts, litter: None, client: RedisClient, redis: Container
) -> None:
    """The source runs on; the target holds what it has until it is told to drop it."""
    before = traces(hosts.beta)
    migration = crash_at(hosts, State.HELD)
    still_served(client)
    assert redis.status == "running"
    held = hosts.beta.run(["migratectl", "status"]).stdout
    assert held.startswith(f"{migration}: container 'redis' is held on beta")
    assert hosts.beta.run(["migratectl", "recover", migration, "--abort"]).stdout.startswith(
        "migratectl: ok"
    )
    assert settled(hosts.beta, before) == {}
    still_served(client)


def test_coordinator_killed_right_after_the_kill(
    hosts: Hosts, litter: None, client: RedisClient, redis: Container
) -> None:
    """The target holds the only copy: it neither drops nor resumes it by itself, and resumes it when told."""
    migration = crash_at(hosts, State.KILLED)
    assert redis.status != "running"
    there = Container(node=hosts.beta, name="redis", address=REDIS_ADDRESS)
    held = "is held on beta, restored but not running; the coordinator is gone"
    ask_it = [
        "migratectl",
        "recover",
        migration,
        "--on",
        "beta",
    ]  # from the source, as an error says it
    until(lambda: held in hosts.alpha.run(ask_it).stdout, "the agent to notice")
    client.mark("held")
    assert client.mark("still held")["count"] == 0
    assert hosts.alpha.run([*ask_it, "--go"]).stdout.startswith("migratectl: ok")
    still_served(client)
    assert there.status == "running"
    redis.remove()


def recover_as_told(hosts: Hosts, said: str) -> None:
    """Do what an error says is to be done: ask the target, then have it go."""
    found = re.search(r"'(migratectl recover [0-9a-f]{12} --on beta)'", said)
    assert found is not None, said
    command = found[1].split()
    until(
        lambda: "the coordinator is gone" in hosts.alpha.run(command).stdout, "the agent to notice"
    )
    assert hosts.alpha.run([*command, "--go"]).stdout.startswith("migratectl: ok")


def test_link_lost_right_after_the_kill(
    hosts: Hosts, client: RedisClient, redis: Container
) -> None:
    """The target holds it, the source keeps what it has of it, and what is said can be done."""
    done = hosts.migrate_with("at_state", "lose_link", "KILLED")
    assert done.returncode == CODES[errors.Undecided], done.stderr
    said = done.stderr.splitlines()[-1]
    assert "the container is held on beta, restored but not running" in said
    assert redis.status == "stopped"
    assert hosts.alpha.run(["ls", f"{redis.bundle}/config.json"]).stdout
    recover_as_told(hosts, said)
    still_served(client)
    assert Container(node=hosts.beta, name="redis", address=REDIS_ADDRESS).status == "running"
    assert redis.status == "stopped"
    redis.remove()


def test_nothing_to_recover(hosts: Hosts) -> None:
    done = hosts.beta.run(["migratectl", "recover", "0123456789ab", "--go"], check=False)
    assert done.returncode == 61
    assert "nothing was changed" in done.stderr
    there = hosts.alpha.run(
        ["migratectl", "recover", "0123456789ab", "--go", "--on", "beta"], check=False
    )
    assert there.returncode == 61
    assert "no agent on beta holds a container" in there.stderr
    nowhere = hosts.alpha.run(
        ["migratectl", "recover", "0123456789ab", "--on", "beta:1"], check=False
    )
    assert nowhere.returncode in (CODES[errors.TargetUnreachable], CODES[errors.UnknownHostKey]), (
        nowhere.stderr
    )
