"""Containers move and go on, and nobody who talks to them is cut off."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.clients import REDIS_PORT, RedisClient, ask, redis_data, redis_digest, status
from tests.integration.conftest import BROKEN, REDIS, REDIS_ADDRESS, WORKLOADS, Hosts, without
from tests.rig import Container, Node, until

#: There, back, and away again.
MOVES = 3
ADDRESS = "10.77.0.60"


def test_redis_keeps_its_one_client_over_three_moves(hosts: Hosts, redis: Container) -> None:
    switch = hosts.rig.switch
    redis_data(switch, REDIS_ADDRESS, "fill", "--mib", "128")
    digest = redis_digest(switch, REDIS_ADDRESS)
    assert digest["keys"] > 1000
    with RedisClient(switch, REDIS_ADDRESS) as client:
        here = redis
        for number in range(MOVES):
            here, report = hosts.move(here, here.node)
            assert report["outcome"] == "done"
            assert report["memory_bytes"] > 128 << 20
            window = client.mark(str(number))
            assert window["contiguous"], window
        seen = client.finish()
    assert seen["error"] is None
    assert seen["contiguous"]
    assert seen["reconnects"] == 0
    assert redis_digest(switch, REDIS_ADDRESS) == digest
    assert here.status == "running"


def test_a_container_of_crun_is_cruns_on_the_target(hosts: Hosts) -> None:
    switch, alpha = hosts.rig.switch, hosts.alpha
    redis = alpha.start_container(
        "redis", ip=REDIS_ADDRESS, argv=REDIS, memory="300M", runtime="crun"
    )
    until(lambda: ask(switch, REDIS_ADDRESS, REDIS_PORT, "PING") == "+PONG", "redis to answer")
    redis_data(switch, REDIS_ADDRESS, "fill", "--mib", "32")
    digest = redis_digest(switch, REDIS_ADDRESS)
    alpha.run(["crun", "update", "--pids-limit", "77", "redis"])
    with RedisClient(switch, REDIS_ADDRESS) as client:
        with without(hosts.beta, "/usr/sbin/criu", BROKEN):
            failed = hosts.migrate(alpha, "redis", "beta")
        assert "CRIU failed in restore" in failed.stderr
        for _ in range(MOVES):
            redis, _ = hosts.move(redis, redis.node)
        seen = client.finish()
    assert seen["contiguous"]
    assert seen["reconnects"] == 0
    assert redis_digest(switch, REDIS_ADDRESS) == digest
    assert redis.node.run(["crun", "exec", "redis", "redis-cli", "ping"]).stdout.strip() == "PONG"
    cgroups = redis.node.run(["cat", f"/proc/{redis.pid}/cgroup"]).stdout.splitlines()
    assert all(line.endswith(":/redis") for line in cgroups), cgroups
    assert (
        limit(redis.node, "memory.max", "memory/redis/memory.limit_in_bytes", name="redis")
        == 300 << 20
    )
    assert limit(redis.node, "pids.max", "pids/redis/pids.max", name="redis") == 77
    redis.node.run(["crun", "kill", "redis", "TERM"])
    until(lambda: redis.status == "stopped", "the container to be stopped")
    redis.node.run(["crun", "delete", "redis"])
    assert redis.status is None
    redis.remove()


def start(hosts: Hosts, name: str, *command: str, memory: str | None = None) -> Container:
    argv = ["python3", "-B", f"{WORKLOADS}/{name}.py", *command]
    return hosts.alpha.start_container(name, ip=ADDRESS, argv=argv, memory=memory)


def test_a_process_tree_moves_there_and_back(hosts: Hosts) -> None:
    switch = hosts.rig.switch
    tree = start(hosts, "tree", "--port", "7101")
    for _ in range(2):
        before = status(switch, ADDRESS, 7101)
        assert before["ok"], before
        assert before["processes"] >= 5
        tree, _ = hosts.move(tree, tree.node)
        after = two_sweeps_later(hosts)
        assert after["ok"], after
        assert after["pids"] == before["pids"]
        assert all(after["timers"][name] > before["timers"][name] for name in before["timers"]), (
            before,
            after,
        )


@pytest.mark.checkered
@pytest.mark.parametrize("mode", ["pre-copy", "stop-copy"])
@pytest.mark.parametrize(
    "name", [b"\xff", b"\rNSpid:\t1", b"\x0bx) Z 1 1 1 1"], ids=["no text", "a pid", "a state"]
)
def test_processes_may_call_themselves_what_they_like(hosts: Hosts, name: bytes, mode: str) -> None:
    """/proc shows the name beside the facts that a move goes by: whose memory is whose, and whether init is dead."""
    called = (
        "import ctypes, os, runpy, sys; ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1]), 0, 0, 0);"
        " sys.argv = sys.argv[2:]; sys.path.insert(0, os.path.dirname(sys.argv[0]));"
        " runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    argv = ["python3", "-B", "-c", called, name.hex(), f"{WORKLOADS}/tree.py", "--port", "7101"]
    tree = hosts.alpha.start_container("tree", ip=ADDRESS, argv=argv)
    before = status(hosts.rig.switch, ADDRESS, 7101)
    done = hosts.migrate(hosts.alpha, "--mode", mode, tree.name, hosts.beta.name)
    assert done.returncode == 0, done.stderr
    after = two_sweeps_later(hosts)
    assert after["ok"], after
    assert after["pids"] == before["pids"]
    assert replace(tree, node=hosts.beta).status == "running"


def two_sweeps_later(hosts: Hosts) -> Mapping[str, Any]:
    """The tree's verdict when each of its processes has checked all its memory again."""
    since = status(hosts.rig.switch, ADDRESS, 7101)["sweeps"]

    def verdict() -> Mapping[str, Any] | None:
        now = status(hosts.rig.switch, ADDRESS, 7101)
        return now if now["sweeps"] >= since + 2 or not now["ok"] else None

    return until(verdict, "two sweeps over all memory")


def test_a_log_file_loses_no_line(hosts: Hosts) -> None:
    switch = hosts.rig.switch
    appender = start(hosts, "appender", "--port", "7102")
    for _ in range(3):
        appender, _ = hosts.move(appender, appender.node)
        arrived = status(switch, ADDRESS, 7102)
        assert arrived["ok"], arrived
        verdict = more_written(hosts, arrived["written"])
        assert verdict["ok"], verdict
    log = f"{appender.bundle}/rootfs/data/append.log"
    appender.node.run(["python3", "-B", f"{WORKLOADS}/appender.py", "--verify", log])


def more_written(hosts: Hosts, than: int) -> Mapping[str, Any]:
    """The appender's verdict once it has written more lines than that."""

    def verdict() -> Mapping[str, Any] | None:
        now = status(hosts.rig.switch, ADDRESS, 7102)
        return now if now["written"] > than else None

    return until(verdict, "lines to be written after the move")


def test_an_idle_listener_listens_on(hosts: Hosts) -> None:
    listener = start(hosts, "listener", "--port", "7103")
    until(
        lambda: ask(hosts.rig.switch, ADDRESS, 7103, "PING a") == "PONG a 1",
        "the listener to answer",
    )
    hosts.move(listener, listener.node)
    assert ask(hosts.rig.switch, ADDRESS, 7103, "PING b") == "PONG b 2"


def test_the_container_is_the_targets_own_afterwards(hosts: Hosts) -> None:
    """Its id, limits, host name, output and signals are as if it had been started there."""
    appender = start(hosts, "appender", "--port", "7102", memory="96M")
    hosts.alpha.run(["runc", "update", "--pids-limit", "77", "appender"])
    moved, _ = hosts.move(appender, appender.node)
    assert appender.status is None
    assert [
        c["id"] for c in json.loads(hosts.beta.run(["runc", "list", "--format", "json"]).stdout)
    ] == ["appender"]
    assert hosts.beta.run(["runc", "exec", "appender", "hostname"]).stdout.strip() == "appender"
    assert limit(moved.node, "memory.max", "memory/appender/memory.limit_in_bytes") == 96 << 20
    assert limit(moved.node, "pids.max", "pids/appender/pids.max") == 77
    init = hosts.beta.run(
        ["readlink", f"/proc/{moved.pid}/fd/0", f"/proc/{moved.pid}/fd/1"]
    ).stdout.split()
    assert all(stream.startswith("pipe:") for stream in init)
    hosts.beta.run(["runc", "kill", "appender", "KILL"])
    until(lambda: moved.status == "stopped", "the container to be stopped")
    hosts.beta.run(["runc", "delete", "appender"])
    assert moved.status is None
    moved.remove()


def limit(node: Node, v2: str, v1: str, name: str = "appender") -> int:
    script = f"cat /sys/fs/cgroup/{v1} 2>/dev/null || cat /sys/fs/cgroup/{name}/{v2}"
    return int(node.run(["sh", "-c", script]).stdout)


def test_what_it_prints_goes_to_the_log_named_in_the_readme(hosts: Hosts) -> None:
    talker = hosts.alpha.start_container(
        "talker",
        ip=ADDRESS,
        argv=["sh", "-c", "n=0; while sleep 0.05; do n=$((n+1)); echo line $n; done"],
    )
    moved, _ = hosts.move(talker, talker.node)
    log = "/var/log/migrate/talker.log"
    lines = until(
        lambda: moved.node.run(["cat", log], check=False).stdout.splitlines(),
        "output on the target",
    )
    assert lines[0].startswith("line ")


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_output_is_for_people_or_for_programs(
    hosts: Hosts, redis: Container, flag: list[str]
) -> None:
    done = hosts.migrate(hosts.alpha, "redis", "root@beta:22", *flag)
    assert done.returncode == 0, done.stderr
    if flag:
        report = json.loads(done.stdout)
        assert report["schema"] == 2
        assert report["downtime_us"] > 0
        phases = {phase["name"] for phase in report["phases"]}
        assert phases >= {
            "prepare",
            "arm source",
            "pre-copy",
            "arm target",
            "dump",
            "restore",
            "commit",
        }
    else:
        assert "downtime" in done.stdout
    assert "migrate: done" in done.stderr


NO_LAZY_PAGES = """#!/bin/sh
[ "$1 $3" = "check uffd-noncoop" ] && exit 1
exec /usr/sbin/criu.kept "$@"
"""


def test_without_lazy_pages_memory_moves_in_the_freeze(hosts: Hosts, redis: Container) -> None:
    redis_data(hosts.rig.switch, REDIS_ADDRESS, "fill", "--mib", "16")
    digest = redis_digest(hosts.rig.switch, REDIS_ADDRESS)
    with (
        RedisClient(hosts.rig.switch, REDIS_ADDRESS) as client,
        without(hosts.beta, "/usr/sbin/criu", NO_LAZY_PAGES),
    ):
        _, report = hosts.move(redis, hosts.alpha)
        seen = client.finish()
    assert report["mode"] == "stop-copy"
    assert report["rounds"] == 0
    assert report["page_bytes"] > 16 << 20  # what is sent may be half of it, compressed
    assert seen["contiguous"]
    assert redis_digest(hosts.rig.switch, REDIS_ADDRESS) == digest


def test_what_is_execed_meanwhile_is_in_nobodys_way(hosts: Hosts, redis: Container) -> None:
    """As health checks are: the host's /dev/null is their standard input. Only one that stays is named."""
    start = "runc exec --detach redis sleep 1000 < /dev/null > /dev/null 2>&1"
    hosts.alpha.run(["sh", "-c", start])
    checks = "while :; do runc exec redis true < /dev/null > /dev/null 2>&1; done"
    checking = [node.popen(["sh", "-c", checks]) for node in (hosts.alpha, hosts.beta)]
    try:
        done = hosts.migrate(hosts.alpha, "redis", "beta")
        assert done.returncode == 0, done.stderr
        assert (
            "('sleep') was started inside the container by 'exec' and does not come along"
            in done.stderr
        )
        assert "No such process" not in done.stderr
        assert done.stderr.count("'exec'") == 1
        there = replace(redis, node=hosts.beta)
        for _ in range(2):
            there, _ = hosts.move(there, there.node)
    finally:
        for process in checking:
            process.kill()
            process.wait()
    assert ask(hosts.rig.switch, REDIS_ADDRESS, REDIS_PORT, "PING") == "+PONG"
