"""A hostile target gets nothing and has nothing removed on the source; a hostile source does not take all RAM."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from migrate.cli.exit_codes import CODES
from migrate.errors import MigrateError, Refused, RolledBack
from tests.integration.conftest import Hosts
from tests.rig import Container
from tests.rig.engine import EngineContainer
from tests.services import REDIS_IMAGE
from tests.tools.hostile import LOOT, SECRET

HIDDEN = "of the source alone"
ADDRESS = "10.77.0.66"
#: Of an agent that takes a container of a few MiB.
MOST_KIB = 160 << 10


@pytest.fixture(autouse=True)
def secret(hosts: Hosts) -> Iterator[None]:
    """A file on the source."""
    hosts.alpha.run(["sh", "-c", f"mkdir -p {SECRET.parent} && cat > {SECRET}"], input=HIDDEN)
    yield
    hosts.alpha.run(["rm", "-rf", str(SECRET.parent)])
    hosts.beta.run(["rm", "-f", str(LOOT)])


def refused(hosts: Hosts, done: subprocess.CompletedProcess[str], how: type[MigrateError]) -> None:
    loot = hosts.beta.run(
        ["sh", "-c", f"cat {LOOT} 2> /dev/null | tr -d '\\0'"], check=False
    ).stdout
    assert HIDDEN not in loot, "the target has a file of the source that is not the container's"
    assert hosts.alpha.run(["cat", str(SECRET)]).stdout == HIDDEN
    assert done.returncode == CODES[how], done.stderr
    assert len(done.stderr.strip().splitlines()[-1]) < 500


def test_a_tmpfs_that_the_container_does_not_have(hosts: Hosts, redis: Container) -> None:
    refused(hosts, hosts.migrate_with("hostile", "tmpfs", "redis", "beta"), RolledBack)
    assert redis.status == "running"


def test_a_layer_that_the_image_does_not_have(hosts: Hosts, engine: str) -> None:
    container = EngineContainer.start(
        hosts.alpha, engine, "web", REDIS_IMAGE, ["sleep", "1000"], address=ADDRESS
    )
    try:
        refused(hosts, hosts.migrate_with("hostile", "layers", "web", "beta"), Refused)
        assert container.status == "running"
    finally:
        container.remove()


def test_more_zeros_than_there_is_memory(hosts: Hosts, redis: Container) -> None:
    """Forty bytes say that 4 TiB of pages are zeros."""
    done = hosts.migrate_with("hostile", "zeros", "redis", "beta")
    assert done.returncode == CODES[RolledBack], done.stderr
    assert "bound" in done.stderr or "beyond" in done.stderr, done.stderr
    assert redis.status == "running"
    assert int(hosts.beta.run(["cat", str(LOOT)]).stdout) < MOST_KIB
