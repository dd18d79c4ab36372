"""Containers move and go on, and nobody who talks to them is cut off."""

import json

import pytest

from tests.rig import Container, Node, Redis, Workload, until
from tests.rig.hosts import Hosts
from tests.rig.without import BROKEN_CRIU, CRIU, Without
from tests.rig.workload import ADDRESS, WORKLOADS, command, start_redis

#: To the target, back, and to the target again.
MOVES = 3


def test_redis_keeps_its_one_client_over_three_moves(hosts: Hosts, redis: Redis[Container]) -> None:
    redis.fill(128)
    digest = redis.digest()
    assert digest["keys"] > 1000
    with redis.client() as client:
        for number in range(MOVES):
            redis, report = hosts.move(redis)
            assert report["outcome"] == "done"
            assert report["memory_bytes"] > 128 << 20
            window = client.mark(str(number))
            assert window["contiguous"], window
        seen = client.finish()
    assert seen["error"] is None
    assert seen["contiguous"]
    assert seen["reconnects"] == 0
    assert redis.digest() == digest
    assert redis.status == "running"


def test_a_container_of_crun_is_cruns_on_the_target(hosts: Hosts) -> None:
    """A restore that fails leaves it with crun on the source, too."""
    redis = start_redis(hosts.alpha, runtime="crun", memory="300M")
    redis.fill(32)
    digest = redis.digest()
    hosts.alpha.run(["crun", "update", "--pids-limit", "77", "redis"])
    with redis.client() as client:
        with Without(hosts.beta, CRIU, BROKEN_CRIU):
            failed = hosts.migrate(hosts.alpha, "redis", "beta")
        assert "CRIU failed in restore" in failed.stderr
        for _ in range(MOVES):
            redis, _ = hosts.move(redis)
        seen = client.finish()
    assert seen["contiguous"]
    assert seen["reconnects"] == 0
    assert redis.digest() == digest
    assert redis.node.run(["crun", "exec", "redis", "redis-cli", "ping"]).stdout.strip() == "PONG"
    pid = redis.container.pid
    cgroups = redis.node.run(["cat", f"/proc/{pid}/cgroup"]).stdout.splitlines()
    assert all(line.endswith(":/redis") for line in cgroups), cgroups
    assert memory_limit(redis.node, "redis") == 300 << 20
    assert pids_limit(redis.node, "redis") == 77
    redis.node.run(["crun", "kill", "redis", "TERM"])
    until(lambda: redis.status == "stopped", "the container to be stopped")
    redis.node.run(["crun", "delete", "redis"])
    assert redis.status is None
    redis.remove()


def memory_limit(node: Node, name: str) -> int:
    """Return the memory limit of a container's cgroup, v1 or v2, in bytes."""
    return limit(node, f"memory/{name}/memory.limit_in_bytes", f"{name}/memory.max")


def pids_limit(node: Node, name: str) -> int:
    """Return how many processes a container's cgroup, v1 or v2, may have."""
    return limit(node, f"pids/{name}/pids.max", f"{name}/pids.max")


def limit(node: Node, v1: str, v2: str) -> int:
    script = f"cd /sys/fs/cgroup; cat {v1} 2>/dev/null || cat {v2}"
    return int(node.run(["sh", "-c", script]).stdout)


def test_a_process_tree_moves_there_and_back(hosts: Hosts) -> None:
    tree = hosts.start("tree")
    for _ in range(2):
        before = tree.verdict()
        assert before["processes"] >= 5
        tree, _ = hosts.move(tree)
        after = tree.goes_on("sweeps", by=2)
        assert after["pids"] == before["pids"]
        assert all(after["timers"][name] > before["timers"][name] for name in before["timers"]), (
            before,
            after,
        )


#: A program that calls itself by a name in hexadecimal digits (prctl(2), PR_SET_NAME is 15) and
#: then is another program. argv: the name, the other program, its arguments.
RENAMED = """
import ctypes, os, runpy, sys
ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1]), 0, 0, 0)
sys.argv = sys.argv[2:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.checkered
@pytest.mark.parametrize("mode", ["pre-copy", "stop-copy"])
@pytest.mark.parametrize(
    "name", [b"\xff", b"\rNSpid:\t1", b"\x0bx) Z 1 1 1 1"], ids=["no text", "a pid", "a state"]
)
def test_processes_may_call_themselves_what_they_like(hosts: Hosts, name: bytes, mode: str) -> None:
    """/proc shows the name beside facts that a move goes by: the owner of memory, init's state."""
    argv = ["python3", "-B", "-c", RENAMED, name.hex(), f"{WORKLOADS}/tree.py"]
    tree = Workload.start(hosts.alpha, "tree", argv=argv)
    before = tree.verdict()
    tree, _ = hosts.move(tree, "--mode", mode)
    after = tree.goes_on("sweeps", by=2)
    assert after["pids"] == before["pids"]
    assert tree.status == "running"


def test_a_log_file_loses_no_line(hosts: Hosts) -> None:
    appender = hosts.start("appender")
    for _ in range(3):
        appender, _ = hosts.move(appender)
        appender.goes_on("written")
    log = f"{appender.container.bundle}/rootfs/data/append.log"
    appender.node.run(["python3", "-B", f"{WORKLOADS}/appender.py", "--verify", log])


def test_an_idle_listener_listens_on(hosts: Hosts) -> None:
    argv = command("listener", "--port", "7103")
    container = hosts.alpha.start_container("listener", ip=ADDRESS, argv=argv)
    listener = Workload(container=container, port=7103, question="PING a", answer="PONG a 1")
    listener, _ = hosts.move(listener.ready())
    assert listener.ask("PING b") == "PONG b 2"


def test_the_container_is_the_targets_own_afterwards(hosts: Hosts) -> None:
    """The id, limits, host name, output and signals are as if the target had started it."""
    appender = hosts.start("appender", memory="96M")
    hosts.alpha.run(["runc", "update", "--pids-limit", "77", "appender"])
    moved, _ = hosts.move(appender)
    assert appender.status is None
    listed = json.loads(hosts.beta.run(["runc", "list", "--format", "json"]).stdout)
    assert [container["id"] for container in listed] == ["appender"]
    assert hosts.beta.run(["runc", "exec", "appender", "hostname"]).stdout.strip() == "appender"
    assert memory_limit(hosts.beta, "appender") == 96 << 20
    assert pids_limit(hosts.beta, "appender") == 77
    pid = moved.container.pid
    streams = hosts.beta.run(["readlink", f"/proc/{pid}/fd/0", f"/proc/{pid}/fd/1"]).stdout.split()
    assert all(stream.startswith("pipe:") for stream in streams)
    hosts.beta.run(["runc", "kill", "appender", "KILL"])
    until(lambda: moved.status == "stopped", "the container to be stopped")
    hosts.beta.run(["runc", "delete", "appender"])
    assert moved.status is None
    moved.remove()


def test_what_it_prints_goes_to_the_log_named_in_the_readme(hosts: Hosts) -> None:
    script = "n=0; while sleep 0.05; do n=$((n+1)); echo line $n; done"
    talker = hosts.alpha.start_container("talker", ip=ADDRESS, argv=["sh", "-c", script])
    moved, _ = hosts.move(talker)
    log = ["cat", "/var/log/migrate/talker.log"]
    lines = until(
        lambda: moved.node.run(log, check=False).stdout.splitlines(), "output on the target"
    )
    assert lines[0].startswith("line ")


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_output_is_for_people_or_for_programs(
    hosts: Hosts, redis: Redis[Container], flag: list[str]
) -> None:
    done = hosts.migrate(hosts.alpha, "redis", "root@beta:22", *flag)
    assert done.returncode == 0, done.stderr
    if flag:
        report = json.loads(done.stdout)
        assert report["schema"] == 2
        assert report["downtime_us"] > 0
        phases = {phase["name"] for phase in report["phases"]}
        before = {"prepare", "arm source", "pre-copy", "arm target"}
        assert phases >= before | {"dump", "restore", "commit"}
    else:
        assert "downtime" in done.stdout
    assert "migrate: done" in done.stderr


NO_LAZY_PAGES = """#!/bin/sh
[ "$1 $3" = "check uffd-noncoop" ] && exit 1
exec /usr/sbin/criu.kept "$@"
"""


def test_without_lazy_pages_memory_moves_in_the_freeze(
    hosts: Hosts, redis: Redis[Container]
) -> None:
    redis.fill(16)
    digest = redis.digest()
    with redis.client() as client, Without(hosts.beta, CRIU, NO_LAZY_PAGES):
        redis, report = hosts.move(redis)
        seen = client.finish()
    assert report["mode"] == "stop-copy"
    assert report["rounds"] == 0
    assert report["page_bytes"] > 16 << 20  # what is sent may be half of it, compressed
    assert seen["contiguous"]
    assert redis.digest() == digest


def test_what_is_execed_meanwhile_is_in_nobodys_way(hosts: Hosts, redis: Redis[Container]) -> None:
    """Health checks are execed so, with the host's /dev/null as their standard input.

    The move names only a process that stays.
    """
    start = "runc exec --detach redis sleep 1000 < /dev/null > /dev/null 2>&1"
    hosts.alpha.run(["sh", "-c", start])
    checks = "while :; do runc exec redis true < /dev/null > /dev/null 2>&1; done"
    checking = [node.popen(["sh", "-c", checks]) for node in hosts.both]
    try:
        done = hosts.migrate(hosts.alpha, "redis", "beta")
        assert done.returncode == 0, done.stderr
        named = "('sleep') was started inside the container by 'exec' and does not come along"
        assert named in done.stderr
        assert "No such process" not in done.stderr
        assert done.stderr.count("'exec'") == 1
        redis = redis.on(hosts.beta)
        for _ in range(2):
            redis, _ = hosts.move(redis)
    finally:
        for process in checking:
            process.kill()
            process.wait()
    assert redis.answers()
