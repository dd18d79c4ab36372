"""Memory of every kind and of any size arrives, and reading it changes nothing for the container.

Memory is small in every day's run. `--gib 2.5`, `--gib 3` and `--gib 5` go beyond what Linux moves
in one call (0x7ffff000 bytes), and `--workers 500` is a large prefork server.
"""

import pytest

from migrate.cli.exit_codes import CODES
from migrate.errors import NotConverging
from tests.rig import Node
from tests.rig.hosts import Hosts
from tests.workloads.dirtier import KINDS

#: How long a move may take whose memory is many GiB.
TIMEOUT_S = 900.0


@pytest.mark.checkered
@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_of_large_memory_of_any_kind_arrives(
    hosts: Hosts, kind: str, request: pytest.FixtureRequest
) -> None:
    """The container is moved to beta and back while it writes 100 MB/s."""
    mib = round(request.config.getoption("--gib") * 1024)
    writing = ["--hot-mib", str(min(mib, 256)), "--mb-per-second", "100"]
    dirtier = hosts.start("dirtier", "--kind", kind, "--mib", str(mib), *writing)
    writes = 0
    for _ in range(2):
        dirtier, report = hosts.move(dirtier, timeout=TIMEOUT_S)
        assert report["memory_bytes"] > mib << 20
        found = dirtier.verdict()
        assert found["pages"] == (mib << 20) // 4096
        assert found["writes"] > writes
        writes = int(found["writes"])


@pytest.mark.parametrize("mode", ["pre-copy", "stop-copy"])
def test_mappings_that_nobody_wrote_to_stay_zeros(hosts: Hosts, mode: str) -> None:
    """CRIU asks for the image of a shared mapping also where no page of it exists."""
    dirtier = hosts.start("dirtier", "--mib", "8", "--untouched")
    for _ in range(2):
        dirtier, report = hosts.move(dirtier, "--mode", mode)
        assert report["mode"] == mode
        dirtier.verdict()


def most_used(node: Node, name: str, *, reset: bool = False) -> int:
    """Return the most memory that a container's cgroup has used since the last reset, in bytes."""
    path = f"/sys/fs/cgroup/memory/{name}/memory.max_usage_in_bytes"
    if reset:
        node.run(["sh", "-c", f"echo 0 > {path}"])
    return int(node.run(["cat", path]).stdout)


def test_forked_workers_share_afterwards_what_they_shared_before(
    hosts: Hosts, request: pytest.FixtureRequest
) -> None:
    """Workers still share what they share since the fork, on both hosts.

    The source's memory does not grow by being copied.
    """
    workers = request.config.getoption("--workers")
    prefork = hosts.start("prefork", "--workers", str(workers))
    assert prefork.verdict()["answers"] == workers
    before = most_used(hosts.alpha, "prefork", reset=True)
    words = ["prefork", "beta", "--json"]
    refused = hosts.migrate_with("without_freeze", *words, timeout=TIMEOUT_S)
    assert refused.returncode == CODES[NotConverging], refused.stderr
    all_was_copied = most_used(hosts.alpha, "prefork")
    assert all_was_copied < 1.02 * before
    prefork, report = hosts.move(prefork, timeout=TIMEOUT_S)
    assert report["mode"] == "pre-copy"
    assert prefork.verdict()["answers"] == workers
