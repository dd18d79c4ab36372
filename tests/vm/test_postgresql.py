"""PostgreSQL in a container of docker's: its processes are not root's, and CRIU needs CAP_SYS_RESOURCE for such."""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Hosts
from tests.rig import until
from tests.rig.engine import EngineContainer, load
from tests.rig.tree import node_tree
from tests.services import IMAGE, START_POSTGRES, postgres_programs, write_services

ADDRESS = "10.77.0.70"
MOVE_TIMEOUT_S = 900.0


@pytest.fixture
def database(hosts: Hosts, engine: str, tmp_path: Path) -> Iterator[EngineContainer]:
    """On alpha, with its data on a volume."""
    archive = tmp_path / "services.tar"
    write_services(archive)
    load(hosts.alpha, engine, archive)
    command = ["sh", "-c", START_POSTGRES.format(bin=postgres_programs())]
    options = ["--volume", "pgdata:/data"]
    database = EngineContainer.start(
        hosts.alpha, engine, "pg", IMAGE, command, address=ADDRESS, options=options
    )
    yield database
    for node in (hosts.alpha, hosts.beta):
        database.on(node).remove()
        node.run([engine, "volume", "rm", "pgdata"], check=False)
        node.run([engine, "rmi", "--force", IMAGE], check=False)
        node.run(["sh", "-c", "rm -rf /var/lib/migrate"])


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_postgresql_loses_no_commit(hosts: Hosts, database: EngineContainer) -> None:
    """pgbench's sessions go on; each transaction it saw committed is there; every index fits its table afterwards."""
    programs = postgres_programs()
    client = [
        "chroot",
        str(node_tree()),
        f"{programs}/pgbench",
        "--host",
        ADDRESS,
        "--username",
        "postgres",
    ]

    def query(sql: str) -> str:
        argv = ["exec", "pg", f"{programs}/psql", "-h", "/run", "-U", "postgres", "-Atc", sql]
        return database.do(*argv, check=False).strip()

    until(lambda: query("select 1") == "1", "postgres to answer", timeout_s=300)
    hosts.rig.switch.run([*client, "--initialize", "--scale=2", "--quiet", "postgres"], timeout=300)
    bench = hosts.rig.switch.popen(
        [
            *client,
            "--client=4",
            f"--time={int(MOVE_TIMEOUT_S)}",
            "--no-vacuum",
            "--random-seed=7",
            "postgres",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    for _ in range(2):
        target = hosts.other(database.node)
        done = database.node.run(
            ["migrate", "pg", target.name, "--json"], check=False, timeout=MOVE_TIMEOUT_S
        )
        assert done.returncode == 0, done.stderr
        database = database.on(target)
    bench.send_signal(signal.SIGALRM)  # its own timer's
    output, _ = bench.communicate(timeout=300)
    assert bench.returncode == 0, output
    found = re.search(r"transactions actually processed: (\d+)", output)
    assert found is not None, output
    assert "number of failed transactions: 0 " in output
    assert int(found[1]) > 100
    assert query("select count(*) from pgbench_history") == found[1]
    sums = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)"
    assert query(sums) == "t"
    check = [f"{programs}/pg_amcheck", "-h", "/run", "-U", "postgres", "--all", "--install-missing"]
    assert database.do("exec", "pg", *check, "--heapallindexed") == ""
