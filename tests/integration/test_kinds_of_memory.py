"""Memory of every kind and of any size arrives; reading it changes nothing for the container that still runs.

Small in CI. `--gib 2.5`, `--gib 3` and `--gib 5` go beyond what Linux moves in one call (0x7ffff000 bytes), and
`--workers 500` is a large prefork server.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.clients import ask, status
from tests.integration.conftest import WORKLOADS, Hosts
from tests.rig import Container, Node, until
from tests.workloads.dirtier import KINDS

ADDRESS = "10.77.0.63"
DIRTIER_PORT, PREFORK_PORT = 7106, 7108
TIMEOUT_S = 900


def start(hosts: Hosts, name: str, *words: str) -> Container:
    argv = ["python3", "-B", f"{WORKLOADS}/{name}.py", *words]
    return hosts.alpha.start_container(name, ip=ADDRESS, argv=argv)


def wait_for_answers(hosts: Hosts) -> None:
    """The dirtier answers once it has filled its memory. This question does not have it look at any."""
    until(
        lambda: ask(hosts.rig.switch, ADDRESS, DIRTIER_PORT, "INCR x"),
        "the dirtier to have filled its memory",
        timeout_s=TIMEOUT_S,
    )


def move(hosts: Hosts, container: Container, *words: str) -> tuple[Container, Mapping[str, Any]]:
    """Like Hosts.move, with the time that memory of many GiB takes."""
    target = hosts.other(container.node)
    argv = ["migrate", container.name, target.name, "--json", *words]
    done = container.node.run(argv, check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return replace(container, node=target), json.loads(done.stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_of_large_memory_of_any_kind(
    hosts: Hosts, kind: str, request: pytest.FixtureRequest
) -> None:
    """To and fro, while it is written at 100 MB/s."""
    mib = round(request.config.getoption("--gib") * 1024)
    words = [
        "--kind",
        kind,
        "--mib",
        str(mib),
        "--hot-mib",
        str(min(mib, 256)),
        "--mb-per-second",
        "100",
    ]
    dirtier = start(hosts, "dirtier", *words)
    until(
        lambda: ask(hosts.rig.switch, ADDRESS, DIRTIER_PORT, "INCR x"),
        "the dirtier to have filled",
        timeout_s=TIMEOUT_S,
    )
    writes = 0
    for _ in range(2):
        dirtier, report = move(hosts, dirtier)
        assert report["memory_bytes"] > mib << 20
        found = status(hosts.rig.switch, ADDRESS, DIRTIER_PORT)
        assert found["ok"], found
        assert found["pages"] == (mib << 20) // 4096
        assert found["writes"] > writes
        writes = int(found["writes"])


@pytest.mark.parametrize("mode", ["pre-copy", "stop-copy"])
def test_mappings_that_nobody_wrote_to(hosts: Hosts, mode: str) -> None:
    """CRIU asks for the image of a shared mapping also where no page of it exists."""
    dirtier = start(hosts, "dirtier", "--mib", "8", "--untouched")
    wait_for_answers(hosts)
    for _ in range(2):
        dirtier, report = move(hosts, dirtier, "--mode", mode)
        assert report["mode"] == mode
        found = status(hosts.rig.switch, ADDRESS, DIRTIER_PORT)
        assert found["ok"], found


def most_used(node: Node, name: str, *, reset: bool = False) -> int:
    """The most memory that a container's cgroup has used since the last reset, in bytes."""
    path = f"/sys/fs/cgroup/memory/{name}/memory.max_usage_in_bytes"
    if reset:
        node.run(["sh", "-c", f"echo 0 > {path}"])
    return int(node.run(["cat", path]).stdout)


def test_a_server_that_forks_its_workers_before_it_serves(
    hosts: Hosts, request: pytest.FixtureRequest
) -> None:
    """What they share since the fork they still share: the source's memory does not grow by being copied."""
    workers = request.config.getoption("--workers")
    prefork = start(hosts, "prefork", "--workers", str(workers))
    assert status(hosts.rig.switch, ADDRESS, PREFORK_PORT)["answers"] == workers
    before = most_used(hosts.alpha, "prefork", reset=True)
    refused = hosts.alpha.run(
        [
            "migrate",
            "prefork",
            "beta",
            "--max-downtime",
            "1",
            "--on-no-converge",
            "abort",
            "--json",
        ],
        check=False,
        timeout=TIMEOUT_S,
    )
    assert refused.returncode == 52, refused.stderr
    assert most_used(hosts.alpha, "prefork") < 1.02 * before, (
        "all of memory was copied ahead by then"
    )
    prefork, report = move(hosts, prefork)
    assert report["mode"] == "pre-copy"
    found = status(hosts.rig.switch, ADDRESS, PREFORK_PORT)
    assert (found["ok"], found["answers"]) == (True, workers), found
