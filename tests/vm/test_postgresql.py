"""PostgreSQL in a container of docker's, whose processes are not root's.

CRIU needs CAP_SYS_RESOURCE for such processes.
"""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import EngineContainer, until
from tests.rig.engine import load
from tests.rig.hosts import Hosts
from tests.rig.services import IMAGE, START_POSTGRES, postgres_programs, write_services
from tests.rig.tree import node_tree
from tests.rig.workload import ADDRESS

LOAD_S = 900
FIT = """
select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
"""


@pytest.fixture
def database(hosts: Hosts, engine: str, tmp_path: Path) -> Iterator[EngineContainer]:
    """PostgreSQL on alpha, with its data on a volume."""
    archive = tmp_path / "services.tar"
    write_services(archive)
    load(hosts.alpha, engine, archive)
    command = ["sh", "-c", START_POSTGRES.format(bin=postgres_programs())]
    options = ["--volume", "pgdata:/data"]
    database = EngineContainer.start(
        hosts.alpha, engine, "pg", IMAGE, command, address=ADDRESS, options=options
    )
    yield database
    for node in hosts.both:
        database.on(node).remove()
        node.run([engine, "volume", "rm", "pgdata"], check=False)
        node.run([engine, "rmi", "--force", IMAGE], check=False)
        node.run(["sh", "-c", "rm -rf /var/lib/migrate"])


def query(database: EngineContainer, sql: str) -> str:
    """Return what PostgreSQL answers; "" while it does not."""
    psql = [f"{postgres_programs()}/psql", "-h", "/run", "-U", "postgres", "-Atc", sql]
    return database.do("exec", "pg", *psql, check=False).strip()


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_postgresql_loses_no_commit(hosts: Hosts, database: EngineContainer) -> None:
    """pgbench's sessions go on, and each transaction that it saw committed is there.

    Every index fits its table afterwards.
    """
    programs = postgres_programs()
    pgbench = ["chroot", str(node_tree()), f"{programs}/pgbench", "--host", ADDRESS]
    pgbench += ["--username", "postgres"]
    until(lambda: query(database, "select 1") == "1", "postgres to answer", timeout_s=300)
    fill = ["--initialize", "--scale=2", "--quiet", "postgres"]
    hosts.switch.run([*pgbench, *fill], timeout=300)
    load = ["--client=4", f"--time={LOAD_S}", "--no-vacuum", "--random-seed=7"]
    bench = hosts.switch.popen(
        [*pgbench, *load, "postgres"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    for _ in range(2):
        database, _ = hosts.move(database)
    bench.send_signal(signal.SIGALRM)  # its own timer's
    output, _ = bench.communicate(timeout=300)
    assert bench.returncode == 0, output
    found = re.search(r"transactions actually processed: (\d+)", output)
    assert found is not None, output
    assert "number of failed transactions: 0 " in output
    assert int(found[1]) > 100
    assert query(database, "select count(*) from pgbench_history") == found[1]
    assert query(database, FIT) == "t"
    check = [f"{programs}/pg_amcheck", "-h", "/run", "-U", "postgres", "--all", "--install-missing"]
    assert database.do("exec", "pg", *check, "--heapallindexed") == ""
