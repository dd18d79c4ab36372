"""podman and docker: their containers move, keep their clients, and are the engine's own on the target."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.clients import REDIS_PORT, RedisClient, ask, redis_data, redis_digest
from tests.integration.conftest import BROKEN, REDIS, REDIS_ADDRESS, Hosts, without
from tests.integration.test_rollback import recover_as_told
from tests.rig import until
from tests.rig.engine import EngineContainer, load
from tests.rig.image import BASE, Layer, write_archive
from tests.rig.tree import node_tree
from tests.services import REDIS_IMAGE as IMAGE

TALKER = ["sh", "-c", "n=0; while sleep 0.02; do n=$((n+1)); echo line $n; done"]
#: There, back, and away again.
MOVES = 3
EXTRA_BYTES = 8 << 20
TWIN_ADDRESS = "10.77.0.51"
Start = Callable[..., EngineContainer]


@pytest.fixture
def start(engine: str, hosts: Hosts) -> Iterator[Start]:
    """Starts containers on alpha; they are removed wherever they are."""
    started = []

    def run(name: str, *command: str, options: tuple[str, ...] = ()) -> EngineContainer:
        container = EngineContainer.start(
            hosts.alpha, engine, name, IMAGE, command, address=REDIS_ADDRESS, options=options
        )
        started.append(container)
        return container

    yield run
    for container in started:
        for node in (hosts.alpha, hosts.beta):
            container.on(node).remove()


def move(hosts: Hosts, container: EngineContainer) -> tuple[EngineContainer, Mapping[str, Any]]:
    """The container on the other host, gone from its own, and the report."""
    there, report = hosts.move(container, container.node)
    assert container.inspect() is None
    return there, report


def test_redis_keeps_its_client_over_three_moves_and_is_the_engines_own(
    hosts: Hosts, start: Start
) -> None:
    switch = hosts.rig.switch
    redis = start("redis", *REDIS)
    until(lambda: ask(switch, REDIS_ADDRESS, REDIS_PORT, "PING") == "+PONG", "redis to answer")
    redis_data(switch, REDIS_ADDRESS, "fill", "--mib", "32")
    digest = redis_digest(switch, REDIS_ADDRESS)
    started = redis.do("logs", "redis")
    with RedisClient(switch, REDIS_ADDRESS) as client:
        for number in range(MOVES):
            redis, report = move(hosts, redis)
            assert "image" not in report["bytes_sent"]  # it is there
            window = client.mark(str(number))
            assert window["contiguous"], window
        seen = client.finish()
    assert seen["contiguous"]
    assert seen["reconnects"] == 0
    assert redis_digest(switch, REDIS_ADDRESS) == digest
    assert redis.do("logs", "redis") == started
    assert redis.do("exec", "redis", "redis-cli", "ping").strip() == "PONG"
    assert redis.do("ps", "--format", "{{.Names}}").split() == ["redis"]
    redis.do("restart", "--time=2", "redis")
    until(
        lambda: ask(switch, REDIS_ADDRESS, REDIS_PORT, "PING") == "+PONG",
        "redis to answer after its restart",
    )
    redis.do("stop", "--time=2", "redis")
    assert redis.status == "exited"
    redis.do("rm", "redis")
    assert redis.inspect() is None


def _more_is_logged(talker: EngineContainer, lines: int) -> bool:
    return len(talker.do("logs", "talker").splitlines()) > lines


def test_no_line_of_its_log_is_lost(hosts: Hosts, start: Start) -> None:
    talker = start("talker", *TALKER)
    for _ in range(2):
        before = len(talker.do("logs", "talker").splitlines())
        talker, _ = move(hosts, talker)
        until(partial(_more_is_logged, talker, before + 10), "more to be logged")
    lines = talker.do("logs", "talker").splitlines()
    assert lines == [f"line {number + 1}" for number in range(len(lines))]


def test_its_files_are_what_they_were(hosts: Hosts, start: Start) -> None:
    """Those of the image that it changed or removed, its own, and those of a volume."""
    script = (
        "echo changed > /etc/passwd; rm /usr/bin/xargs; rm -r /srv; mkdir /srv; echo own > /srv/own; mkdir /data/deep;"
        " echo kept > /data/deep/file; ln /data/deep/file /data/hard; ln -s deep /data/soft; mknod /data/null c 1 3;"
        " truncate -s 64M /data/holes; chown 7:8 /data/deep; while sleep 0.01; do date > /srv/own; done"
    )
    keeper = start("keeper", "sh", "-c", script, options=("--volume", "kept:/data"))
    look = "cat /etc/passwd /data/hard; ls /srv /usr/bin/xargs; stat -c '%n %F %u %g %h %t %T %b' /data/* /data/deep"
    until(
        lambda: "own" in keeper.do("exec", "keeper", "ls", "/srv", check=False),
        "its files to be there",
    )
    before = keeper.do("exec", "keeper", "sh", "-c", look, check=False)
    for _ in range(2):
        keeper, _ = move(hosts, keeper)
        assert keeper.do("exec", "keeper", "sh", "-c", look, check=False) == before
    keeper.remove()
    for node in (hosts.alpha, hosts.beta):
        node.run([keeper.engine, "volume", "rm", "kept"])
        node.run(["sh", "-c", "rm -rf /var/lib/migrate"])


def image_of(container: EngineContainer) -> str:
    found = container.inspect()
    assert found is not None
    return str(found["Image"])


def test_of_an_image_that_lacks_the_layers_that_lack_are_sent(
    hosts: Hosts, engine: str, tmp_path: Path
) -> None:
    """And the image is the same on both sides, by its digests, which the engine has verified.

    Two containers of it are moved at once, neither of which may get into the other's way.
    """
    extra = Layer(files={"/srv/extra": random.Random(7).randbytes(EXTRA_BYTES)})  # noqa: S311
    archive, name = tmp_path / "extra.tar", "localhost/rig/extra:1"
    redis = Layer(programs=["redis-server", "redis-cli"])
    write_archive(archive, node_tree(), name, [BASE, redis, extra], ["sleep", "1000"])
    load(hosts.alpha, engine, archive)
    heavy, twin = (
        EngineContainer.start(hosts.alpha, engine, called, name, ["sleep", "1000"], address=address)
        for called, address in (("heavy", REDIS_ADDRESS), ("twin", TWIN_ADDRESS))
    )
    before, layers = (
        image_of(heavy),
        f"{engine} image inspect --format {{{{.RootFS.Layers}}}} {name}",
    )
    with ThreadPoolExecutor(2) as threads:
        (heavy, report), (twin, other) = threads.map(lambda each: move(hosts, each), (heavy, twin))
    try:
        sent = sorted(each["bytes_sent"].get("image", 0) for each in (report, other))
        assert EXTRA_BYTES < sent[1] < EXTRA_BYTES + (1 << 20)
        assert sent[0] < EXTRA_BYTES + (1 << 20), "none if it came late"
        assert image_of(heavy) == image_of(twin) == before
        assert hosts.beta.run(layers.split()).stdout == hosts.alpha.run(layers.split()).stdout
        assert heavy.do("exec", "heavy", "stat", "-c", "%s", "/srv/extra").strip() == str(
            EXTRA_BYTES
        )
        assert hosts.beta.run(["find", "/var/lib/migrate", "-type", "f"], check=False).stdout == ""
    finally:
        heavy.remove()
        twin.remove()
        for node in (hosts.alpha, hosts.beta):
            node.run([engine, "rmi", name])
            node.run(["sh", "-c", "rm -rf /var/lib/migrate"])


def refused(
    hosts: Hosts,
    container: EngineContainer,
    kind: type[errors.MigrateError] = errors.RefusedByEngine,
) -> str:
    done = hosts.migrate(container.node, container.name, "beta")
    assert done.returncode == CODES[kind], done.stderr
    assert "nothing was changed" in done.stderr
    assert container.status == "running"
    return done.stderr


def test_a_volume_of_somebody_elses_is_not_overwritten(hosts: Hosts, start: Start) -> None:
    keeper = start("keeper", "sleep", "1000", options=("--volume", "precious:/data"))
    hosts.beta.run([keeper.engine, "volume", "create", "precious"])
    try:
        assert "volume 'precious' is there already" in refused(hosts, keeper)
    finally:
        keeper.remove()
        for node in (hosts.alpha, hosts.beta):
            node.run([keeper.engine, "volume", "rm", "precious"])


def test_what_one_of_two_would_lose_is_refused(hosts: Hosts, start: Start) -> None:
    """A volume that another container has; and what the engine or a unit does when it is killed."""
    by_itself = {
        "docker": ("--rm", "--rm"),
        "podman": ("--label=PODMAN_SYSTEMD_UNIT=web.service", "the systemd unit 'web.service'"),
    }
    keeper = start("keeper", "sleep", "1000", options=("--volume", "precious:/data"))
    option, said = by_itself[keeper.engine]
    try:
        other = [keeper.engine, "create", "--name", "other", "--volume", "precious:/data", IMAGE]
        hosts.alpha.run(other)
        not_movable = errors.NotMovableError
        assert "'precious' is also used by container" in refused(hosts, keeper, not_movable)
        hosts.alpha.run([keeper.engine, "rm", "other"])
        keeper.remove()
        again = start("keeper", "sleep", "1000", options=(option,))
        assert said in refused(hosts, again, not_movable)
    finally:
        keeper.remove()
        hosts.alpha.run([keeper.engine, "rm", "--force", "other"], check=False)
        hosts.alpha.run([keeper.engine, "volume", "rm", "precious"])


@contextlib.contextmanager
def other_network(hosts: Hosts, engine: str) -> Iterator[None]:
    """beta calls another network by that name."""
    for node, subnet in ((hosts.alpha, "10.78.1.0/24"), (hosts.beta, "10.78.2.0/24")):
        node.run([engine, "network", "create", "--subnet", subnet, "yard"])
    try:
        yield
    finally:
        for node in (hosts.alpha, hosts.beta):
            node.run([engine, "network", "rm", "yard"])


def test_another_network_of_the_name_is_refused(hosts: Hosts, engine: str) -> None:
    with other_network(hosts, engine):
        hosts.alpha.run(
            [
                engine,
                "run",
                "--detach",
                "--name",
                "fenced",
                "--network",
                "yard",
                IMAGE,
                "sleep",
                "1000",
            ]
        )
        fenced = EngineContainer(node=hosts.alpha, name="fenced", engine=engine, address="")
        try:
            assert "network 'yard' is another one there" in refused(hosts, fenced)
        finally:
            fenced.remove()


def test_a_terminal_is_refused(hosts: Hosts, start: Start) -> None:
    shell = start("shell", "sleep", "1000", options=("--tty",))
    done = hosts.migrate(hosts.alpha, "shell", "beta")
    assert done.returncode == CODES[errors.NotMovableError], done.stderr
    assert "has a terminal (-t), which cannot be moved" in done.stderr
    assert shell.status == "running"


def test_after_a_failure_it_runs_on_and_the_target_knows_nothing(
    hosts: Hosts, start: Start
) -> None:
    redis = start("redis", *REDIS, options=("--restart", "always"))
    until(
        lambda: ask(hosts.rig.switch, REDIS_ADDRESS, REDIS_PORT, "PING") == "+PONG",
        "redis to answer",
    )
    with RedisClient(hosts.rig.switch, REDIS_ADDRESS) as client:
        with without(hosts.beta, "/usr/sbin/criu", BROKEN):
            done = hosts.migrate(hosts.alpha, "redis", "beta", "--json")
        seen = client.finish()
    assert done.returncode == CODES[errors.RolledBack], done.stderr
    assert "CRIU failed in restore" in done.stderr
    report = json.loads(done.stdout)
    assert report["cause_kind"] == "CriuFailed"
    kept = hosts.alpha.run(["ls", report["log_directory"]]).stdout.split()
    assert {"source-images-dump.log", "target-images-restore.log", "target-traceback.txt"} <= set(
        kept
    )
    assert seen["contiguous"]
    assert redis.on(hosts.beta).inspect() is None
    found = redis.inspect()
    assert found is not None
    assert found["State"]["Status"] == "running"
    assert found["HostConfig"]["RestartPolicy"]["Name"] == "always"
    move(hosts, redis)


def test_until_the_target_says_that_it_runs_the_source_keeps_the_container(
    hosts: Hosts, start: Start
) -> None:
    """With its writable layer and its volume, and it is not started again there."""
    redis = start("redis", *REDIS, options=("--restart", "always", "--volume", "/data"))
    until(
        lambda: ask(hosts.rig.switch, REDIS_ADDRESS, REDIS_PORT, "PING") == "+PONG",
        "redis to answer",
    )
    redis.do("exec", "redis", "sh", "-c", "echo mine > /data/file; echo mine > /srv/file")
    with RedisClient(hosts.rig.switch, REDIS_ADDRESS) as client:
        done = hosts.migrate_with("at_state", "lose_link", "KILLED")
        assert done.returncode == CODES[errors.Undecided], done.stderr
        recover_as_told(hosts, done.stderr.splitlines()[-1])
        client.mark("recovered")
        until(lambda: client.mark("later")["count"] > 10, "replies")
        seen = client.finish()
    assert seen["contiguous"]
    assert redis.on(hosts.beta).status == "running"
    kept = redis.inspect()
    assert kept is not None
    assert kept["State"]["Status"] == "exited"
    assert kept["HostConfig"]["RestartPolicy"]["Name"] == "no"
    [volume] = [mount["Source"] for mount in kept["Mounts"] if mount["Destination"] == "/data"]
    for path in (f"{volume}/file", f"{kept['GraphDriver']['Data']['UpperDir']}/srv/file"):
        assert hosts.alpha.run(["cat", path]).stdout == "mine\n"
