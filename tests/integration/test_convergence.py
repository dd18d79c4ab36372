"""Containers that write faster than the link carries, over a link that is slow for real."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.rig import Container, Node, Workload
from tests.rig.hosts import Hosts

#: Half of what the dirtier writes, in bits.
LINK = ["rate", "120mbit", "burst", "128kb", "latency", "200ms"]
DIRTIER = ["--mib", "24", "--mb-per-second", "30"]
AT_MOST_400_MS = ["--max-downtime", "400"]


@pytest.fixture
def slow_link(hosts: Hosts) -> Iterator[None]:
    """The switch passes on to either host no more than LINK."""
    ports = [f"p-{node.name}" for node in hosts.both]
    for port in ports:
        hosts.switch.run(["tc", "qdisc", "add", "dev", port, "root", "tbf", *LINK])
    yield
    for port in ports:
        hosts.switch.run(["tc", "qdisc", "del", "dev", port, "root"])


@pytest.fixture
def dirtier(hosts: Hosts, slow_link: None) -> Workload[Container]:
    """A container that never converges."""
    return hosts.start("dirtier", *DIRTIER)


def quota(node: Node) -> str:
    """Return the CPU limit of the dirtier's cgroup, v1 or v2."""
    files = "cpu*/dirtier/cpu.cfs_quota_us dirtier/cpu.max"
    script = f"cd /sys/fs/cgroup; cat {files} 2>/dev/null | sort -u"
    return node.run(["sh", "-c", script]).stdout.strip()


@pytest.mark.parametrize(
    ("words", "item"),
    [
        (["--threads", "2000"], "2,000 threads"),
        (["--shared-mib", "200"], "200 MiB of memory that is only sent in the freeze"),
    ],
    ids=["threads", "shared memory"],
)
def test_what_would_freeze_too_long_is_left_alone_before_anything_is_sent(
    hosts: Hosts, words: list[str], item: str
) -> None:
    hosts.start("crowd", *words)
    kind, said = hosts.refused("crowd", "beta", "--on-no-converge", "abort")
    assert kind is errors.WouldFreezeTooLong
    assert f"of it for {item}; 300 ms are allowed" in said


def test_abort_leaves_the_container_alone(hosts: Hosts, dirtier: Workload[Container]) -> None:
    before = hosts.traces()
    words = ["dirtier", "beta", "--on-no-converge", "abort", *AT_MOST_400_MS, "--json"]
    done = hosts.migrate(hosts.alpha, *words)
    assert done.returncode == CODES[errors.NotConverging], done.stderr
    report = json.loads(done.stdout)
    assert report["outcome"] == "rolled back"
    assert report["predicted_downtime_us"] > 400_000
    assert "over the 400 ms allowed" in report["error"]
    assert "the container runs on the source" in report["error"]
    assert report["freeze"] == [], "it was never frozen"
    dirtier.goes_on("writes")
    assert hosts.new_traces(before) == {}


def test_throttle_slows_it_down_and_gives_its_speed_back(
    hosts: Hosts, dirtier: Workload[Container]
) -> None:
    full, seen = quota(hosts.alpha), set[str]()
    with ThreadPoolExecutor(1) as threads:
        words = ["--on-no-converge", "throttle", *AT_MOST_400_MS]
        moving = threads.submit(hosts.move, dirtier, *words)
        while not moving.done():
            seen.add(quota(hosts.alpha))
            time.sleep(0.1)
        dirtier, report = moving.result()
    notes = report["notes"]
    assert any("slowed down to 50% of its speed" in note for note in notes), notes
    assert len(seen - {full, ""}) >= 1, "its processor time was not limited"
    assert quota(hosts.beta) == full
    dirtier.goes_on("writes")


@pytest.mark.thorough
def test_by_default_it_is_frozen_anyway(hosts: Hosts, dirtier: Workload[Container]) -> None:
    dirtier, report = hosts.move(dirtier, *AT_MOST_400_MS)
    notes = report["notes"]
    assert any("over the 400 ms allowed, frozen anyway" in note for note in notes), notes
    assert report["rounds"] >= 3
    dirtier.goes_on("writes")


def test_a_slowed_container_that_is_not_moved_has_its_speed_back(
    hosts: Hosts, dirtier: Workload[Container]
) -> None:
    """The move is interrupted while the container is slow."""
    full = quota(hosts.alpha)
    argv = ["migrate", "dirtier", "beta", "--on-no-converge", "throttle", *AT_MOST_400_MS]
    move = hosts.alpha.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert move.stderr is not None
    for line in move.stderr:
        if "slowed down" in line:
            assert quota(hosts.alpha) != full
            move.send_signal(signal.SIGINT)
            break
    _, said = move.communicate(timeout=60)
    assert move.returncode == 128 + signal.SIGINT, said
    assert quota(hosts.alpha) == full
    dirtier.goes_on("writes")
