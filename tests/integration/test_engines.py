"""podman and docker: containers move, keep their clients, and are the engine's own afterwards."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.rig import EngineContainer, Redis, until
from tests.rig.engine import load
from tests.rig.hosts import Hosts, Report
from tests.rig.image import BASE, Layer, write_archive
from tests.rig.services import REDIS_IMAGE
from tests.rig.tree import node_tree
from tests.rig.without import BROKEN_CRIU, CRIU, Without
from tests.rig.workload import ADDRESS, REDIS

TALKER = ["sh", "-c", "n=0; while sleep 0.02; do n=$((n+1)); echo line $n; done"]
#: To the target, back, and to the target again.
MOVES = 3
EXTRA_BYTES = 8 << 20
TWIN_ADDRESS = "10.77.0.51"
#: Starts a container on alpha: its name, its command, and `options` of the engine's `run`.
Start = Callable[..., EngineContainer]


@pytest.fixture
def start(engine: str, hosts: Hosts) -> Iterator[Start]:
    """A function that starts containers on alpha; they are removed wherever they are then."""
    started = []

    def run(name: str, *command: str, options: tuple[str, ...] = ()) -> EngineContainer:
        container = EngineContainer.start(
            hosts.alpha, engine, name, REDIS_IMAGE, command, address=ADDRESS, options=options
        )
        started.append(container)
        return container

    yield run
    for container in started:
        for node in hosts.both:
            container.on(node).remove()


def start_redis(start: Start, *options: str) -> Redis[EngineContainer]:
    """Start redis on alpha, with further options, and wait until it is ready."""
    return Redis(container=start("redis", *REDIS, options=options)).ready()


def move(hosts: Hosts, container: EngineContainer) -> tuple[EngineContainer, Report]:
    """Move a container, which its own host must forget, and return it there and the report."""
    moved, report = hosts.move(container)
    assert container.inspect() is None
    return moved, report


def test_redis_keeps_its_client_over_three_moves_and_is_the_engines_own(
    hosts: Hosts, start: Start
) -> None:
    redis = start_redis(start)
    redis.fill(32)
    digest = redis.digest()
    started = redis.container.do("logs", "redis")
    with redis.client() as client:
        for number in range(MOVES):
            source = redis.container
            redis, report = hosts.move(redis)
            assert source.inspect() is None
            assert "image" not in report["bytes_sent"], "the target has it"
            window = client.mark(str(number))
            assert window["contiguous"], window
        seen = client.finish()
    assert seen["contiguous"]
    assert seen["reconnects"] == 0
    assert redis.digest() == digest
    container = redis.container
    assert container.do("logs", "redis") == started
    assert container.do("exec", "redis", "redis-cli", "ping").strip() == "PONG"
    assert container.do("ps", "--format", "{{.Names}}").split() == ["redis"]
    container.do("restart", "--time=2", "redis")
    redis.ready()
    container.do("stop", "--time=2", "redis")
    assert container.status == "exited"
    container.do("rm", "redis")
    assert container.inspect() is None


def _more_is_logged(talker: EngineContainer, lines: int) -> bool:
    return len(talker.do("logs", "talker").splitlines()) > lines


@pytest.mark.parametrize(
    "engine", [pytest.param("podman", marks=pytest.mark.thorough), "docker"], indirect=True
)
def test_no_line_of_its_log_is_lost(hosts: Hosts, start: Start) -> None:
    talker = start("talker", *TALKER)
    for _ in range(2):
        before = len(talker.do("logs", "talker").splitlines())
        talker, _ = move(hosts, talker)
        until(partial(_more_is_logged, talker, before + 10), "more to be logged")
    lines = talker.do("logs", "talker").splitlines()
    assert lines == [f"line {number + 1}" for number in range(len(lines))]


@pytest.mark.parametrize(
    "engine", ["podman", pytest.param("docker", marks=pytest.mark.thorough)], indirect=True
)
def test_its_files_are_what_they_were(hosts: Hosts, start: Start) -> None:
    """Files of the image that the container changed or removed, its own, and those of a volume."""
    script = (
        "echo changed > /etc/passwd; rm /usr/bin/xargs; rm -r /srv; mkdir /srv;"
        " echo own > /srv/own; mkdir /data/deep; echo kept > /data/deep/file;"
        " ln /data/deep/file /data/hard; ln -s deep /data/soft; mknod /data/null c 1 3;"
        " truncate -s 64M /data/holes; chown 7:8 /data/deep;"
        " while sleep 0.01; do date > /srv/own; done"
    )
    look = (
        "cat /etc/passwd /data/hard; ls /srv /usr/bin/xargs;"
        " stat -c '%n %F %u %g %h %t %T %b' /data/* /data/deep"
    )
    keeper = start("keeper", "sh", "-c", script, options=("--volume", "kept:/data"))
    until(
        lambda: "own" in keeper.do("exec", "keeper", "ls", "/srv", check=False),
        "its files to be there",
    )
    before = keeper.do("exec", "keeper", "sh", "-c", look, check=False)
    for _ in range(2):
        keeper, _ = move(hosts, keeper)
        assert keeper.do("exec", "keeper", "sh", "-c", look, check=False) == before
    keeper.remove()
    for node in hosts.both:
        node.run([keeper.engine, "volume", "rm", "kept"])
        node.run(["sh", "-c", "rm -rf /var/lib/migrate"])


def image_of(container: EngineContainer) -> str:
    """Return the id of a container's image."""
    found = container.inspect()
    assert found is not None
    return str(found["Image"])


@pytest.mark.parametrize(
    "engine", [pytest.param("podman", marks=pytest.mark.thorough), "docker"], indirect=True
)
def test_layers_that_the_target_lacks_are_sent(hosts: Hosts, engine: str, tmp_path: Path) -> None:
    """The image is the same on both hosts, by its digests, which the engine has verified.

    Two containers of the image are moved at once, neither of which may get into the other's way.
    """
    extra = Layer(files={"/srv/extra": random.Random(7).randbytes(EXTRA_BYTES)})  # noqa: S311
    archive, name = tmp_path / "extra.tar", "localhost/rig/extra:1"
    redis = Layer(programs=["redis-server", "redis-cli"])
    write_archive(archive, node_tree(), name, [BASE, redis, extra], ["sleep", "1000"])
    load(hosts.alpha, engine, archive)
    heavy, twin = (
        EngineContainer.start(hosts.alpha, engine, called, name, ["sleep", "1000"], address=address)
        for called, address in (("heavy", ADDRESS), ("twin", TWIN_ADDRESS))
    )
    before = image_of(heavy)
    layers = [engine, "image", "inspect", "--format", "{{.RootFS.Layers}}", name]
    with ThreadPoolExecutor(2) as threads:
        (heavy, report), (twin, other) = threads.map(lambda each: move(hosts, each), (heavy, twin))
    try:
        sent = sorted(each["bytes_sent"].get("image", 0) for each in (report, other))
        assert EXTRA_BYTES < sent[1] < EXTRA_BYTES + (1 << 20)
        assert sent[0] < EXTRA_BYTES + (1 << 20), "none if it came late"
        assert image_of(heavy) == image_of(twin) == before
        assert hosts.beta.run(layers).stdout == hosts.alpha.run(layers).stdout
        size = heavy.do("exec", "heavy", "stat", "-c", "%s", "/srv/extra")
        assert size.strip() == str(EXTRA_BYTES)
        assert (
            hosts.beta.run(["find", "/var/lib/migrate/images", "-type", "f"], check=False).stdout
            == ""
        )
    finally:
        heavy.remove()
        twin.remove()
        for node in hosts.both:
            node.run([engine, "rmi", name])
            node.run(["sh", "-c", "rm -rf /var/lib/migrate"])


def refused(
    hosts: Hosts,
    container: EngineContainer,
    kind: type[errors.MigrateError] = errors.RefusedByEngine,
) -> str:
    """Move a container, which must be refused by that error, and return what was said."""
    done = hosts.migrate(container.node, container.name, "beta")
    assert done.returncode == CODES[kind], done.stderr
    assert "nothing was changed" in done.stderr
    assert container.status == "running"
    return done.stderr


#: Starts a command as the main process of a systemd unit: in its cgroup, which systemctl knows.
AS_A_UNIT = """
for file in $(find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs); do
    mkdir -p ${file%/*}/web.service && echo $$ > ${file%/*}/web.service/cgroup.procs
done
echo "Restart=always\nMainPID=$$" > /run/web.unit
exec "$@"
"""
SYSTEMCTL = """#!/bin/sh
[ "$1 $4" = "show web.service" ] && cat /run/web.unit
"""


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_a_container_that_a_unit_of_systemds_starts_again_is_refused(
    hosts: Hosts, start: Start
) -> None:
    keeper = start("keeper", "sleep", "1000")
    with Without(hosts.alpha, "/usr/bin/systemctl", SYSTEMCTL):
        attached = ["docker", "start", "--attach", "keeper"]
        unit = hosts.alpha.popen(["sh", "-c", AS_A_UNIT, "sh", *attached])
        try:
            there = ["pgrep", "-f", f"^{' '.join(attached)}"]
            until(lambda: hosts.alpha.run(there, check=False).stdout, "the unit's process")
            said = refused(hosts, keeper, errors.NotMovableError)
        finally:
            keeper.remove()
            unit.wait(20)
            hosts.alpha.run(["rm", "/run/web.unit"])
            hosts.alpha.run(["sh", "-c", "rmdir $(find /sys/fs/cgroup -name web.service)"])
    assert "the systemd unit 'web.service' of this host runs the container" in said


def test_a_volume_of_somebody_elses_is_not_overwritten(hosts: Hosts, start: Start) -> None:
    keeper = start("keeper", "sleep", "1000", options=("--volume", "precious:/data"))
    hosts.beta.run([keeper.engine, "volume", "create", "precious"])
    try:
        assert "volume 'precious' is there already" in refused(hosts, keeper)
    finally:
        keeper.remove()
        for node in hosts.both:
            node.run([keeper.engine, "volume", "rm", "precious"])


def test_what_one_of_two_would_lose_is_refused(hosts: Hosts, start: Start) -> None:
    """Another container has the volume, or the engine or a unit acts when this one is killed."""
    by_itself = {
        "docker": ("--rm", "--rm"),
        "podman": ("--label=PODMAN_SYSTEMD_UNIT=web.service", "the systemd unit 'web.service'"),
    }
    keeper = start("keeper", "sleep", "1000", options=("--volume", "precious:/data"))
    option, said = by_itself[keeper.engine]
    volume = ["--volume", "precious:/data"]
    try:
        hosts.alpha.run([keeper.engine, "create", "--name", "other", *volume, REDIS_IMAGE])
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
    """Have each host call a network `yard` that the other host does not have."""
    for node, subnet in ((hosts.alpha, "10.78.1.0/24"), (hosts.beta, "10.78.2.0/24")):
        node.run([engine, "network", "create", "--subnet", subnet, "yard"])
    try:
        yield
    finally:
        for node in hosts.both:
            node.run([engine, "network", "rm", "yard"])


def test_another_network_of_the_name_is_refused(hosts: Hosts, engine: str) -> None:
    run = [engine, "run", "--detach", "--name", "fenced", "--network", "yard", REDIS_IMAGE]
    with other_network(hosts, engine):
        hosts.alpha.run([*run, "sleep", "1000"])
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


@pytest.mark.parametrize(
    "engine", ["podman", pytest.param("docker", marks=pytest.mark.thorough)], indirect=True
)
def test_after_a_failure_it_runs_on_and_the_target_knows_nothing(
    hosts: Hosts, start: Start
) -> None:
    redis = start_redis(start, "--restart", "always")
    with redis.client() as client:
        with Without(hosts.beta, CRIU, BROKEN_CRIU):
            done = hosts.migrate(hosts.alpha, "redis", "beta", "--json")
        seen = client.finish()
    assert done.returncode == CODES[errors.RolledBack], done.stderr
    assert "CRIU failed in restore" in done.stderr
    report = json.loads(done.stdout)
    assert report["cause_kind"] == "CriuFailed"
    kept = set(hosts.alpha.run(["ls", report["log_directory"]]).stdout.split())
    assert kept >= {"source-images-dump.log", "target-images-restore.log", "target-traceback.txt"}
    assert seen["contiguous"]
    assert redis.container.on(hosts.beta).inspect() is None
    found = redis.container.inspect()
    assert found is not None
    assert found["State"]["Status"] == "running"
    assert found["HostConfig"]["RestartPolicy"]["Name"] == "always"
    move(hosts, redis.container)


@pytest.mark.parametrize(
    "engine", [pytest.param("podman", marks=pytest.mark.thorough), "docker"], indirect=True
)
def test_until_the_target_says_that_it_runs_the_source_keeps_the_container(
    hosts: Hosts, start: Start
) -> None:
    """The source keeps its writable layer and its volume, and does not start it again."""
    redis = start_redis(start, "--restart", "always", "--volume", "/data")
    write = "echo mine > /data/file; echo mine > /srv/file"
    redis.container.do("exec", "redis", "sh", "-c", write)
    with redis.client() as client:
        done = hosts.migrate_with("at_state", "lose_host_alone", "KILLED")
        assert done.returncode == CODES[errors.Undecided], done.stderr
        assert "the link was lost after the source had been stopped" in done.stderr
        kept = redis.container.inspect()
        assert kept is not None
        assert kept["State"]["Status"] == "exited"
        assert kept["HostConfig"]["RestartPolicy"]["Name"] == "no"
        [volume] = [mount["Source"] for mount in kept["Mounts"] if mount["Destination"] == "/data"]
        for path in (f"{volume}/file", f"{kept['GraphDriver']['Data']['UpperDir']}/srv/file"):
            assert hosts.alpha.run(["cat", path]).stdout == "mine\n"
        hosts.recover_as_told(done.stderr.splitlines()[-1])
        client.goes_on()
        seen = client.finish()
    assert seen["contiguous"]
    assert redis.on(hosts.beta).status == "running"
    assert redis.container.inspect() is None
