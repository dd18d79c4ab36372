"""A hostile target or source gets no more than the protocol gives it.

A hostile target gets no file of the source and has none removed there. A hostile source does not
take all RAM of the target.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from migrate.cli.exit_codes import CODES
from migrate.errors import MigrateError, Refused, RolledBack
from tests.rig import Container, EngineContainer, Redis
from tests.rig.hosts import Hosts
from tests.rig.services import REDIS_IMAGE
from tests.rig.workload import ADDRESS
from tests.tools.hostile import LOOT, SECRET

HIDDEN = "of the source alone"
#: The most RAM that an agent takes for a container of a few MiB.
MOST_KIB = 160 << 10


@pytest.fixture(autouse=True)
def secret(hosts: Hosts) -> Iterator[None]:
    """A file on the source that no move has to do with."""
    hosts.alpha.run(["sh", "-c", f"mkdir -p {SECRET.parent} && cat > {SECRET}"], input=HIDDEN)
    yield
    hosts.alpha.run(["rm", "-rf", str(SECRET.parent)])
    hosts.beta.run(["rm", "-f", str(LOOT)])


def refused(hosts: Hosts, done: subprocess.CompletedProcess[str], how: type[MigrateError]) -> None:
    """Assert that a move ended with that error, and that the target got nothing."""
    look = f"cat {LOOT} 2> /dev/null | tr -d '\\0'"
    loot = hosts.beta.run(["sh", "-c", look], check=False).stdout
    assert HIDDEN not in loot, "the target has a file of the source that is not the container's"
    assert hosts.alpha.run(["cat", str(SECRET)]).stdout == HIDDEN
    assert done.returncode == CODES[how], done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) < 500


def test_a_target_that_tells_of_a_tmpfs_too_many_gets_no_file(
    hosts: Hosts, redis: Redis[Container]
) -> None:
    refused(hosts, hosts.migrate_with("hostile", "tmpfs", "redis", "beta"), RolledBack)
    assert redis.status == "running"


def test_a_target_that_asks_for_a_layer_too_many_gets_no_file(hosts: Hosts, engine: str) -> None:
    container = EngineContainer.start(
        hosts.alpha, engine, "web", REDIS_IMAGE, ["sleep", "1000"], address=ADDRESS
    )
    try:
        refused(hosts, hosts.migrate_with("hostile", "layers", "web", "beta"), Refused)
        assert container.status == "running"
    finally:
        container.remove()


def test_more_zeros_than_there_is_memory_are_refused(hosts: Hosts, redis: Redis[Container]) -> None:
    """Forty bytes say that 4 TiB of pages are zeros."""
    done = hosts.migrate_with("hostile", "zeros", "redis", "beta")
    assert done.returncode == CODES[RolledBack], done.stderr
    assert "bound" in done.stderr or "beyond" in done.stderr, done.stderr
    assert redis.status == "running"
    assert int(hosts.beta.run(["cat", str(LOOT)]).stdout) < MOST_KIB
