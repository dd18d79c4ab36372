"""A move that fails or is interrupted leaves the container on exactly one of the hosts.

The container goes on on the source before the kill, and on the target after it.
"""

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from migrate.decisions.state import State
from tests.rig import Container, Node, Redis
from tests.rig.clients import Client
from tests.rig.hosts import NOTHING_CHANGED, Hosts, Report
from tests.rig.traces import settled, traces


def stop_when(hosts: Hosts, word: str, number: signal.Signals) -> "subprocess.Popen[str]":
    """Start a move, and send the tool a signal as soon as it has said a word."""
    pipe = subprocess.PIPE
    move = hosts.alpha.popen(["migrate", "redis", "beta"], stdout=pipe, stderr=pipe)
    assert move.stderr is not None
    for line in move.stderr:
        if word in line:
            move.send_signal(number)
            break
    return move


@pytest.mark.checkered
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("word", ["prepared", "armed"])
def test_a_move_interrupted_before_the_freeze_is_rolled_back(
    hosts: Hosts, client: Client, redis: Redis[Container], word: str, number: signal.Signals
) -> None:
    before = hosts.traces()
    move = stop_when(hosts, word, number)
    _, said = move.communicate(timeout=60)
    assert move.returncode == 128 + number, said
    assert "the container runs on the source" in said
    client.goes_on()
    assert redis.status == "running"
    assert hosts.settled(before) == {}


def test_a_move_interrupted_in_the_freeze_leaves_one_container(
    hosts: Hosts, client: Client, redis: Redis[Container]
) -> None:
    """One host runs the container, whether the signal came before or after the kill."""
    move = stop_when(hosts, "frozen", signal.SIGTERM)
    _, said = move.communicate(timeout=60)
    client.goes_on()
    on_both = (redis.status, redis.on(hosts.beta).status)
    if move.returncode == 0:
        assert on_both == (None, "running")
    else:
        assert move.returncode == 128 + signal.SIGTERM, said
        assert on_both == ("running", None)


@pytest.fixture
def another_redis_binary(hosts: Hosts) -> Iterator[None]:
    """beta's redis is not alpha's, byte for byte: CRIU does not map it into what it restores."""
    program = hosts.beta.run(["readlink", "-f", "/usr/bin/redis-server"]).stdout.strip()
    hosts.beta.run(["sh", "-c", f"cp -p {program} {program}.kept && echo >> {program}"])
    yield
    hosts.beta.run(["mv", f"{program}.kept", program])


def test_a_restore_that_fails_is_rolled_back_and_explained(
    hosts: Hosts, client: Client, redis: Redis[Container], another_redis_binary: None
) -> None:
    before = hosts.traces()
    client.mark("before")
    done = hosts.migrate(hosts.alpha, "redis", "beta", "--json")
    assert done.returncode == CODES[errors.RolledBack], done.stderr
    said, report = done.stderr.splitlines()[-1], json.loads(done.stdout)
    assert "CRIU failed in restore: file usr/bin/redis" in said, "CRIU's own reason, in words"
    assert "make it the same file on both hosts" in said
    assert (report["error_kind"], report["cause_kind"]) == ("RolledBack", "CriuFailed")
    assert report["error"] in said
    check_logs(hosts.alpha, report, said)
    client.goes_on()
    assert redis.status == "running"
    assert hosts.new_traces(before) == {}


def check_logs(node: Node, report: Report, said: str) -> None:
    """Assert that CRIU's logs of both hosts, which were in RAM, are kept for root, and named."""
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


@pytest.mark.parametrize("state", [State.ARMED, State.FROZEN])
def test_a_container_that_ends_meanwhile_runs_nowhere(
    hosts: Hosts, redis: Redis[Container], state: State
) -> None:
    """Somebody else ended it and was told so: it runs on neither host, and nobody says it does."""
    before = traces(hosts.beta)
    done = hosts.migrate_with("at_state", "kill_container", state.name)
    assert done.returncode == CODES[errors.ContainerEnded], done.stderr
    said = done.stderr.splitlines()[-1]
    assert "the container ended on the source while it was moved" in said
    assert "the container runs nowhere" in said
    assert redis.status == "stopped"
    assert settled(hosts.beta, before) == {}


def test_the_container_goes_on_if_criu_is_killed_in_the_freeze(
    hosts: Hosts, redis: Redis[Container]
) -> None:
    """The source alone may go on, for it may have gone on already; its network is unlocked."""
    before = hosts.traces()
    done = hosts.migrate_with("at_state", "kill_criu", "FROZEN")
    assert done.returncode == CODES[errors.RolledBack], done.stderr
    assert "CRIU ended while it held the frozen container" in done.stderr
    assert "may have been cut" in done.stderr
    assert redis.answers()
    assert redis.status == "running"
    netns = f"--net=/proc/{redis.container.pid}/ns/net"
    assert hosts.alpha.run(["nsenter", netns, "nft", "list", "ruleset"]).stdout == ""
    assert hosts.settled(before) == {}


def test_a_link_that_is_lost_after_the_kill_is_made_again(
    hosts: Hosts, client: Client, redis: Redis[Container]
) -> None:
    done = hosts.migrate_with("at_state", "lose_link", "KILLED")
    assert done.returncode == 0, done.stderr
    client.goes_on()
    assert redis.status is None
    assert redis.on(hosts.beta).status == "running"
    hosts.move(redis.on(hosts.beta))
    client.goes_on()


@pytest.mark.checkered
@pytest.mark.parametrize("victim", ["criu", "runc"])
@pytest.mark.parametrize("state", ["KILLING", "KILLED"])
def test_a_restore_that_is_lost_after_the_last_look_is_made_again(
    hosts: Hosts, client: Client, redis: Redis[Container], state: str, victim: str
) -> None:
    """The source is dead by then; nothing of the container has run on the target."""
    kill = f"kill -KILL $(pgrep -x {victim}); sleep 0.1"
    done = hosts.migrate_with("at_state", "on_target", state, kill)
    assert done.returncode == 0, done.stderr
    assert "it is restored there once more" in done.stderr
    client.goes_on()
    assert redis.status is None
    assert redis.on(hosts.beta).status == "running"
    hosts.move(redis.on(hosts.beta))
    client.goes_on()


def test_the_target_waits_for_go_if_it_cannot_be_reached(
    hosts: Hosts, client: Client, redis: Redis[Container]
) -> None:
    """The target holds it, the source keeps what it has of it, and the guardian goes on."""
    done = hosts.migrate_with("at_state", "lose_host", "KILLED")
    assert done.returncode == CODES[errors.Undecided], done.stderr
    said = done.stderr.splitlines()[-1]
    assert "the link was lost after the source had been stopped" in said
    assert "the container is held on beta, restored but not running" in said
    hosts.recover_as_told(said)
    client.goes_on()
    assert redis.on(hosts.beta).status == "running"
    assert redis.status is None
    hosts.move(redis.on(hosts.beta))


#: A command that kills the agent on the target, whose pid is in its lock of the container, and that
#: returns when the source has seen it.
KILL_AGENT = "kill -KILL $(sed 's/.*process //' /run/migrate/locks/*-redis); sleep 0.5"


def test_an_agent_killed_before_the_kill_has_its_copy_dropped(
    hosts: Hosts, client: Client, redis: Redis[Container]
) -> None:
    """The keeper holds the restored container, and drops it when the source says so."""
    before = traces(hosts.beta)
    done = hosts.migrate_with("at_state", "on_target", "HELD", KILL_AGENT)
    assert done.returncode == CODES[errors.RolledBack], done.stderr
    client.goes_on()
    assert redis.status == "running"
    assert settled(hosts.beta, before) == {}


def test_a_target_that_lost_its_programs_can_take_the_container_again(
    hosts: Hosts, client: Client, redis: Redis[Container]
) -> None:
    """Agent and keeper are killed while they hold it: the next move there finds no trace."""
    before = traces(hosts.beta)
    both = 'sed -n \'s/.*"process":.\\([0-9]*\\),.*"stand_by":.\\([0-9]*\\),.*/\\1 \\2/p\''
    newest = "$(ls -t /run/migrate/journal/*.target | head -n 1)"
    kill = f"kill -KILL $({both} {newest} | tail -n 1); sleep 0.5"
    done = hosts.migrate_with("at_state", "on_target", "HELD", kill)
    assert done.returncode == CODES[errors.RolledBack], done.stderr
    client.goes_on()
    assert redis.status == "running"
    assert settled(hosts.beta, before) == {}
    hosts.move(hosts.move(redis)[0])
    client.goes_on()


def test_a_restore_that_has_ended_is_seen_before_the_kill(
    hosts: Hosts, client: Client, redis: Redis[Container]
) -> None:
    """CRIU kills what it has restored if the runtime is gone, so nothing could be resumed."""
    before = traces(hosts.beta)
    end_runc = "kill -KILL $(pgrep -x runc); sleep 0.3"
    done = hosts.migrate_with("at_state", "on_target", "HELD", end_runc)
    assert done.returncode == CODES[errors.RolledBack], done.stderr
    assert "the engine's restore ended" in done.stderr
    client.goes_on()
    assert redis.status == "running"
    assert settled(hosts.beta, before) == {}


def test_an_agent_killed_after_the_kill_loses_nothing(
    hosts: Hosts, client: Client, redis: Redis[Container]
) -> None:
    """The keeper holds the only copy, and runs it when the source says GO."""
    done = hosts.migrate_with("at_state", "on_target", "KILLED", KILL_AGENT)
    assert done.returncode == 0, done.stderr
    client.goes_on()
    assert redis.on(hosts.beta).status == "running"
    assert redis.status is None
    hosts.move(redis.on(hosts.beta))
    client.goes_on()


def test_recover_says_that_there_is_nothing_to_recover(hosts: Hosts) -> None:
    recover = ["migratectl", "recover", "0123456789ab"]
    done = hosts.beta.run([*recover, "--go"], check=False)
    assert done.returncode == 62, "whether the source is dead must be said"
    assert NOTHING_CHANGED in done.stderr
    go = ["--go", "--source-is-dead"]
    done = hosts.beta.run([*recover, *go], check=False)
    assert done.returncode == 61
    assert NOTHING_CHANGED in done.stderr
    by_ssh = hosts.alpha.run([*recover, *go, "--on", "beta"], check=False)
    assert by_ssh.returncode == 61
    assert "nobody on beta holds a container" in by_ssh.stderr
    nowhere = hosts.alpha.run([*recover, "--on", "beta:1"], check=False)
    unknown = (CODES[errors.TargetUnreachable], CODES[errors.UnknownHostKey])
    assert nowhere.returncode in unknown, nowhere.stderr
