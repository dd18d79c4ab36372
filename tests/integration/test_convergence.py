"""Containers that write faster than the link carries, over a link that is slow for real."""

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from migrate import errors
from migrate.cli.exit_codes import CODES
from tests.clients import status
from tests.integration.conftest import WORKLOADS, Hosts, new_traces, traces
from tests.rig import Container, Node, until

ADDRESS, PORT = "10.77.0.61", 7106
#: Half of what the dirtier writes, in bits.
LINK = ["rate", "120mbit", "burst", "128kb", "latency", "200ms"]
MB_PER_SECOND = "30"


@pytest.fixture
def slow_link(hosts: Hosts) -> Iterator[None]:
    """What the switch passes on to either node is shaped."""
    ports = [f"p-{node.name}" for node in (hosts.alpha, hosts.beta)]
    for port in ports:
        hosts.rig.switch.run(["tc", "qdisc", "add", "dev", port, "root", "tbf", *LINK])
    yield
    for port in ports:
        hosts.rig.switch.run(["tc", "qdisc", "del", "dev", port, "root"])


@pytest.fixture
def dirtier(hosts: Hosts, slow_link: None) -> Container:
    argv = [
        "python3",
        "-B",
        f"{WORKLOADS}/dirtier.py",
        "--mib",
        "24",
        "--mb-per-second",
        MB_PER_SECOND,
    ]
    container = hosts.alpha.start_container("dirtier", ip=ADDRESS, argv=argv)
    verdict(hosts)
    return container


def verdict(hosts: Hosts) -> Mapping[str, Any]:
    """What the dirtier says of its memory, which is whole."""
    found = status(hosts.rig.switch, ADDRESS, PORT)
    assert found["ok"], found
    return found


def writes_on(hosts: Hosts) -> None:
    before = verdict(hosts)["writes"]
    until(lambda: verdict(hosts)["writes"] > before, "the dirtier to write on")


def quota(node: Node) -> str:
    """Of the container's cpu cgroup, v1 or v2."""
    script = (
        "cd /sys/fs/cgroup; cat cpu*/dirtier/cpu.cfs_quota_us dirtier/cpu.max 2>/dev/null | sort -u"
    )
    return node.run(["sh", "-c", script]).stdout.strip()


def test_it_is_left_alone(hosts: Hosts, dirtier: Container) -> None:
    before = {node.name: traces(node) for node in (hosts.alpha, hosts.beta)}
    done = hosts.migrate(
        hosts.alpha,
        "dirtier",
        "beta",
        "--on-no-converge",
        "abort",
        "--max-downtime",
        "400",
        "--json",
    )
    assert done.returncode == CODES[errors.NotConverging], done.stderr
    report = json.loads(done.stdout)
    assert report["outcome"] == "rolled back"
    assert report["predicted_downtime_us"] > 400_000
    assert "over the 400 ms allowed" in report["error"]
    assert "the container runs on the source" in report["error"]
    assert report["freeze"] == [], "it was never frozen"
    writes_on(hosts)
    assert [new_traces(before[node.name], traces(node)) for node in (hosts.alpha, hosts.beta)] == [
        {},
        {},
    ]


def test_it_is_slowed_down_and_has_its_speed_back_afterwards(
    hosts: Hosts, dirtier: Container
) -> None:
    full = quota(hosts.alpha)
    done = hosts.migrate(
        hosts.alpha,
        "dirtier",
        "beta",
        "--on-no-converge",
        "throttle",
        "--max-downtime",
        "400",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert any("slowed down to 50% of its speed" in note for note in report["notes"]), report[
        "notes"
    ]
    at_full_speed, at_last = report["round_bytes"][2], report["round_bytes"][-1]
    assert at_last < 0.8 * at_full_speed, report["round_bytes"]
    assert quota(hosts.beta) == full
    writes_on(hosts)


def test_it_is_frozen_anyway(hosts: Hosts, dirtier: Container) -> None:
    done = hosts.migrate(hosts.alpha, "dirtier", "beta", "--max-downtime", "400", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert any("over the 400 ms allowed, frozen anyway" in note for note in report["notes"]), (
        report["notes"]
    )
    assert report["rounds"] >= 3
    writes_on(hosts)


def test_a_slowed_container_that_is_not_moved_has_its_speed_back(
    hosts: Hosts, dirtier: Container
) -> None:
    """The move is interrupted while it is slow."""
    full = quota(hosts.alpha)
    argv = ["migrate", "dirtier", "beta", "--on-no-converge", "throttle", "--max-downtime", "400"]
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
    writes_on(hosts)
