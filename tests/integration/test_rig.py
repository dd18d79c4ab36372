"""The rig itself: what other tests build on must hold."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.rig import (
    BadUsage,
    CommandFailed,
    CommandTimedOut,
    Container,
    EngineContainer,
    Node,
    Rig,
    RigError,
    names,
    network,
    until,
)
from tests.rig.__main__ import main
from tests.rig.cgroups import hierarchies, pids
from tests.rig.workload import ADDRESS, REDIS, REDIS_PORT

OTHER_ADDRESS = "10.77.0.51"

RUNC_DATA = ["--tcp-established", "--image-path", "/srv/image", "--work-path", "/srv/work"]

#: A client on one connection, which sends each line that it reads and prints the answer to it.
ASKER = f"""
import socket, sys
connection = socket.create_connection((sys.argv[1], {REDIS_PORT}), timeout=60)
server = connection.makefile("rw", newline="")
for request in sys.stdin:
    server.write(request.strip() + "\\r\\n")
    server.flush()
    print(server.readline().strip(), flush=True)
"""


@pytest.fixture
def second_rig(rig_name: str) -> Iterator[Rig]:
    """A rig of one test's own, not yet up."""
    rig = Rig(f"{rig_name}-second")
    yield rig
    rig.down()


@pytest.fixture
def redis(rig: Rig) -> Iterator[Container]:
    """redis in a container of runc's on alpha, which beta's redis-cli reaches."""
    with_redis = rig.node("alpha").start_container("redis", ip=ADDRESS, argv=REDIS, memory="256M")
    until(lambda: answers(rig.node("beta"), with_redis), "redis to answer")
    yield with_redis
    with_redis.remove()


def answers(node: Node, container: Container) -> bool:
    """Return whether a redis answers redis-cli on a node."""
    ping = node.run(["redis-cli", "-h", container.address, "ping"], check=False)
    return ping.stdout.strip() == "PONG"


def traces(rig: Rig) -> Mapping[str, set[str]]:
    """Return what on this machine bears the rig's name, by kind. Other rigs come and go meanwhile.

    A process that is dead and waits for its parent is no trace: PID 1 may let it wait.
    """
    prefix = f"{rig.name}-"
    processes = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            bears = f"/{prefix}".encode() in (process / "cgroup").read_bytes()
            bears |= str(rig.directory).encode() in (process / "cmdline").read_bytes()
            is_dead = b"\nState:\tZ" in (process / "status").read_bytes()
        except OSError:
            continue
        if bears and not is_dead:
            processes.add(process.name)
    groups = {
        str(group) for hierarchy in hierarchies() for group in hierarchy.path.glob(f"{prefix}*")
    }
    return {
        "mounts": {
            line
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if rig.name in line
        },
        "namespaces": {path.name for path in network.NETNS_DIRECTORY.glob(f"{prefix}*")},
        "cgroups": groups,
        "processes": processes | {str(pid) for pid in network.pids(rig.switch.netns)},
        "files": {str(path) for path in names.RUN_DIRECTORY.glob(f"{rig.name}*")},
    }


def assert_no_trace(rig: Rig) -> None:
    """Assert that nothing on this machine bears the rig's name."""
    assert {kind: found for kind, found in traces(rig).items() if found} == {}


@pytest.mark.parametrize(("source", "target"), [("alpha", "beta"), ("beta", "alpha")])
def test_nodes_reach_each_other_by_ssh(rig: Rig, source: str, target: str) -> None:
    strict = ["ssh", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]
    for name in (target, rig.node(target).address):
        assert rig.node(source).run([*strict, name, "hostname"]).stdout == f"{target}\n"


def test_a_node_knows_only_the_rigs_hosts(rig: Rig) -> None:
    strict = ["ssh", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]
    with pytest.raises(CommandFailed, match="Host key verification failed"):
        rig.node("alpha").run([*strict, "-o", "HostKeyAlias=gamma", "beta", "true"])


def test_a_node_is_a_host_of_its_own(rig: Rig) -> None:
    alpha = rig.node("alpha")
    assert alpha.run(["hostname"]).stdout == "alpha\n"
    assert alpha.run(["cat", "/proc/1/comm"]).stdout.startswith("python3")
    assert alpha.run(["ip", "-o", "-6", "addr", "show", "scope", "link"]).stdout == ""
    seen = alpha.run(["cat", "/proc/self/cgroup"]).stdout
    assert rig.name not in seen
    assert "/.." not in seen


def test_the_checkout_is_there_and_read_only(rig: Rig) -> None:
    alpha = rig.node("alpha")
    alpha.run(["test", "-f", "/opt/migrate/pyproject.toml"])
    with pytest.raises(CommandFailed, match="Read-only file system"):
        alpha.run(["touch", "/opt/migrate/tests"])


def test_init_reaps_orphans(rig: Rig) -> None:
    alpha = rig.node("alpha")
    alpha.run(["sh", "-c", "(sleep 0 & exec sleep 0) & exec true"])
    look = ["ps", "--no-headers", "-o", "stat", "--ppid", "1"]
    until(lambda: "Z" not in alpha.run(look).stdout, "no zombie")


def test_exit_status_output_and_input_pass_through(rig: Rig) -> None:
    alpha = rig.node("alpha")
    echoed = alpha.run(["sh", "-c", "cat; echo aside >&2; exit 7"], input="text", check=False)
    assert (echoed.returncode, echoed.stdout, echoed.stderr) == (7, "text", "aside\n")
    killed = alpha.run(["sh", "-c", "kill -TERM $$"], check=False)
    assert killed.returncode == -signal.SIGTERM


def test_a_failing_command_raises_what_it_said(rig: Rig) -> None:
    with pytest.raises(CommandFailed) as caught:
        rig.node("alpha").run(["ls", "/nowhere"])
    assert caught.value.argv == ("ls", "/nowhere")
    assert caught.value.status == 2
    assert "No such file" in caught.value.stderr
    assert str(caught.value).startswith("ls /nowhere: ended with status 2\n")


def test_a_command_that_does_not_end_is_killed(rig: Rig) -> None:
    alpha = rig.node("alpha")
    with pytest.raises(CommandTimedOut):
        alpha.run(["sleep", "4321"], timeout=0.2)
    until(lambda: not is_there(alpha, "sleep 4321"), "sleep to be gone")


def is_there(node: Node, command: str) -> bool:
    """Return whether a command runs on a node."""
    return node.run(["pgrep", "-f", command], check=False).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_a_command(rig: Rig, number: signal.Signals) -> None:
    alpha = rig.node("alpha")
    sleep = ["sh", "-c", "echo ready; exec sleep 4322"]
    with alpha.popen(sleep, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(timeout=60) == -number
    until(lambda: not is_there(alpha, "sleep 4322"), "sleep to be gone")


def test_files_and_directories_are_copied_into_a_node(rig: Rig, tmp_path: Path) -> None:
    alpha = rig.node("alpha")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/script").write_text("#!/bin/sh\necho copied\n")
    (tmp_path / "inner/script").chmod(0o750)
    alpha.copy(tmp_path / "inner/script", "/srv/copied/renamed")
    assert alpha.run(["/srv/copied/renamed"]).stdout == "copied\n"
    alpha.copy(tmp_path, "/srv/copied/all")
    assert alpha.run(["/srv/copied/all/inner/script"]).stdout == "copied\n"


def test_a_container_answers_from_everywhere(rig: Rig, redis: Container) -> None:
    assert answers(rig.node("alpha"), redis)
    assert answers(rig.node("beta"), redis)
    asker = [sys.executable, "-c", ASKER, redis.address]
    pipe = subprocess.PIPE
    with rig.switch.popen(asker, stdin=pipe, stdout=pipe) as client:
        assert client.communicate("PING\n", timeout=60)[0] == "+PONG\n"
    assert redis.status == "running"


def test_a_containers_memory_is_limited(rig: Rig, redis: Container) -> None:
    v1, v2 = "memory/redis/memory.limit_in_bytes", "redis/memory.max"
    look = f"cd /sys/fs/cgroup; cat {v1} 2>/dev/null || cat {v2}"
    assert rig.node("alpha").run(["sh", "-c", look]).stdout == f"{256 << 20}\n"


def test_a_containers_output_is_logged(rig: Rig, redis: Container) -> None:
    log = ["cat", str(redis.log)]
    until(
        lambda: "Ready to accept connections" in rig.node("alpha").run(log).stdout,
        "redis's greeting in its log",
    )


def test_a_container_moves_by_hand_with_its_client(rig: Rig, redis: Container) -> None:
    """CRIU can dump and restore what the rig runs, on the other node too."""
    alpha, beta = rig.node("alpha"), rig.node("beta")
    moved = redis.on(beta)
    asker = [sys.executable, "-u", "-c", ASKER, redis.address]
    pipe = subprocess.PIPE
    with rig.switch.popen(asker, stdin=pipe, stdout=pipe) as client:
        assert client.stdin is not None
        assert client.stdout is not None

        def ask(request: str) -> str:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(f"{request}\n")
            client.stdin.flush()
            return client.stdout.readline().strip()

        assert ask("INCR counter") == ":1"
        try:
            alpha.run(["mkdir", "-p", "/srv/image", "/srv/work"])
            alpha.run(["runc", "checkpoint", *RUNC_DATA, redis.name])
            redis.unplug()
            alpha.run(["rsync", "-aR", "/srv/image", str(redis.bundle), "beta:/"])
            beta.run(["mkdir", "-p", "/srv/work"])
            moved.plug()
            moved.leave("restore", "-d", *RUNC_DATA, "--bundle", str(moved.bundle))
            assert ask("INCR counter") == ":2"
            assert (redis.status, moved.status) == (None, "running")
        finally:
            moved.remove()
            for node in (alpha, beta):
                node.run(["rm", "-rf", "/srv/image", "/srv/work"])


def test_containers_of_all_engines_are_run_and_listed(
    rig: Rig, redis: Container, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "beta", "web", "--engine", engine, "--ip", OTHER_ADDRESS, "--", "sleep", "1000"]
    web = EngineContainer(node=rig.node("beta"), name="web", engine=engine, address=OTHER_ADDRESS)
    try:
        assert main(["--name", rig.name, *run]) == 0
        assert main(["--name", rig.name, "status"]) == 0
    finally:
        web.remove()
    alpha, beta = capsys.readouterr().out.splitlines()[-2:]
    assert alpha.endswith("  runc: redis")
    assert beta.endswith(f"  {engine}: web")


def test_a_container_that_cannot_start_leaves_nothing(rig: Rig) -> None:
    alpha = rig.node("alpha")
    with pytest.raises(CommandFailed, match="no-such-program"):
        alpha.start_container("broken", ip=OTHER_ADDRESS, argv=["/no-such-program"])
    for listing in (["ls", "/srv/containers"], ["ip", "netns"], ["ip", "link"], ["runc", "list"]):
        assert "broken" not in alpha.run(listing).stdout


def test_two_rigs_do_not_meet(rig: Rig, redis: Container, second_rig: Rig) -> None:
    second_rig.up(nodes=2)
    same = second_rig.node("alpha").start_container("redis", ip=redis.address, argv=REDIS)
    until(lambda: answers(second_rig.node("beta"), same), "the second rig's redis to answer")
    rig.node("beta").run(["redis-cli", "-h", redis.address, "set", "rig", "first"])
    get = ["redis-cli", "-h", same.address, "get", "rig"]
    assert second_rig.node("beta").run(get).stdout.strip() == ""
    second_rig.down()
    assert answers(rig.node("beta"), redis)


def test_up_again_says_so_and_another_size_is_refused(rig: Rig) -> None:
    assert rig.up(nodes=2) is False
    with pytest.raises(BadUsage, match="is up with nodes alpha, beta"):
        rig.up(nodes=3)


def test_down_leaves_nothing_and_may_be_repeated(second_rig: Rig) -> None:
    assert_no_trace(second_rig)
    second_rig.up(nodes=1)
    alpha = second_rig.node("alpha")
    alpha.start_container("redis", ip=ADDRESS, argv=REDIS)
    alpha.start_container("frozen", ip=OTHER_ADDRESS, argv=REDIS)
    alpha.run(["runc", "pause", "frozen"])
    sleep = ["sh", "-c", "echo ready; exec sleep infinity"]
    with (
        second_rig.switch.popen(["sleep", "infinity"]) as client,
        alpha.popen(sleep, stdout=subprocess.PIPE) as command,
    ):
        assert command.stdout is not None
        command.stdout.readline()
        assert all(traces(second_rig).values()), "or finding nothing later would mean nothing"
        second_rig.down()
        ends = (client.wait(timeout=60), command.wait(timeout=60))
        assert ends == (-signal.SIGKILL, -signal.SIGKILL)
    assert_no_trace(second_rig)
    second_rig.down()
    assert_no_trace(second_rig)


def test_only_root_makes_rigs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for verb in (Rig("unmade").up, Rig("unmade").down):
        with pytest.raises(RigError, match="must be root"):
            verb()


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "-a", "x" * 33])
def test_a_rigs_name_is_checked(name: str) -> None:
    with pytest.raises(BadUsage, match="is no name for a rig"):
        Rig(name)


HALF_WAY: Mapping[str, Callable[[Rig], bool]] = {
    "the state directory": lambda rig: rig.directory.exists(),
    "the switch": lambda rig: network.netns_path(rig.switch.netns).exists(),
    "alpha's first process": lambda rig: bool(pids(names.member(rig.name, "alpha"))),
    "beta's first process": lambda rig: bool(pids(names.member(rig.name, "beta"))),
}


@pytest.mark.parametrize("point", HALF_WAY)
def test_down_after_up_was_killed(second_rig: Rig, point: str) -> None:
    up = [sys.executable, "-m", "tests.rig", "--name", second_rig.name, "up"]
    with subprocess.Popen(up, stdout=subprocess.DEVNULL) as process:
        until(lambda: HALF_WAY[point](second_rig), point)
        process.kill()
    second_rig.down()
    assert_no_trace(second_rig)


def test_up_after_up_was_killed(second_rig: Rig) -> None:
    up = [sys.executable, "-m", "tests.rig", "--name", second_rig.name, "up"]
    with subprocess.Popen(up, stdout=subprocess.DEVNULL) as process:
        until(lambda: HALF_WAY["alpha's first process"](second_rig), "alpha's first process")
        process.kill()
    second_rig.up(nodes=1)
    assert second_rig.node("alpha").run(["hostname"]).stdout == "alpha\n"


def test_a_node_that_died_is_noticed(second_rig: Rig) -> None:
    second_rig.up(nodes=1)
    os.kill(second_rig.node("alpha").pid, signal.SIGKILL)
    until(lambda: not second_rig.is_up(), "the node to be gone")
    with pytest.raises(RigError, match=r"alpha of rig .* is not running"):
        second_rig.node("alpha").run(["true"])
    assert second_rig.up(nodes=1) is True


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["exec", "gamma", "--", "true"], "has no node 'gamma': it has alpha, beta"),
        (["exec", "alpha"], "no command given"),
        (["copy", "/etc/passwd", "alpha"], "write NODE:/PATH"),
        (["copy", "/nowhere", "alpha:/tmp/x"], "/nowhere is not there"),
        (
            ["run", "alpha", "a-name-too-long", "--ip", "10.77.0.50", "--", "true"],
            "up to 13 letters",
        ),
        (["run", "alpha", "web", "--ip", "10.78.0.50", "--", "true"], "outside the rig's network"),
        (
            ["run", "alpha", "web", "--ip", "10.77.0.50", "--memory", "lots", "--", "true"],
            "'lots' is no size",
        ),
    ],
)
def test_bad_usage_is_told(
    rig: Rig, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert main(["--name", rig.name, *arguments]) == 2
    assert complaint in capsys.readouterr().err
