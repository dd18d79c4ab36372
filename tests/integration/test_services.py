"""Services as people run them, in containers of podman and docker, that move under load."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import WORKLOADS, ask
from tests.integration.conftest import Hosts
from tests.rig import until
from tests.rig.engine import EngineContainer, load
from tests.rig.image import BASE, Layer, write_archive
from tests.rig.tree import node_tree

ADDRESS = "10.77.0.70"
NGINX_CONFIGURATION = b"""
daemon off; user root; worker_processes 1; pid /data/nginx.pid; error_log /data/error.log;
events { worker_connections 1024; }
http {
    access_log off; sendfile on; keepalive_requests 1000000000; keepalive_timeout 3600;
    client_body_temp_path /data/b; proxy_temp_path /data/p; fastcgi_temp_path /data/f;
    uwsgi_temp_path /data/u; scgi_temp_path /data/s;
    server { listen 80; root /srv; }
}
"""
FILE_MIB, CLIENTS = 200, 100
SERVE = f"head -c {FILE_MIB}M /dev/urandom > /srv/file && exec nginx -e /data/error.log -c /etc/nginx.conf"
POSTGRES = next((node_tree() / "usr/lib/postgresql").iterdir()).name
BIN = f"/usr/lib/postgresql/{POSTGRES}/bin"
START_POSTGRES = f"""
export PATH=$PATH:{BIN}
chown postgres /data /run
exec setpriv --reuid=postgres --regid=postgres --clear-groups sh -c '
initdb --auth=trust --username=postgres --locale=C.UTF-8 --pgdata=/data/pg > /data/initdb.log &&
echo "host all all all trust" >> /data/pg/pg_hba.conf &&
exec postgres -D /data/pg -c listen_addresses=* -c unix_socket_directories=/run -c shared_buffers=32MB'
"""


@pytest.fixture
def image(hosts: Hosts, engine: str, tmp_path: Path) -> Iterator[str]:
    """An image with both, on alpha alone: it goes with the first container."""
    programs = ["head", "sha256sum", "chown", "setpriv", "nginx"]
    tools = Layer(programs=programs, files={"/etc/nginx.conf": NGINX_CONFIGURATION})
    programs = [f"{BIN}/{name}" for name in ("postgres", "initdb", "psql", "pg_amcheck", "pgbench")]
    trees = ["/usr/lib/postgresql", "/usr/share/postgresql", "/usr/share/zoneinfo/Etc/UTC"]
    archive, name = tmp_path / "services.tar", "localhost/rig/services:1"
    write_archive(archive, node_tree(), name, [BASE, tools, Layer(programs=programs, paths=trees)], ["sh"])
    load(hosts.alpha, engine, archive)
    yield name
    for node in (hosts.alpha, hosts.beta):
        node.run([engine, "rmi", "--force", name], check=False)
        node.run(["sh", "-c", "rm -rf /var/lib/migrate"])


def move(hosts: Hosts, container: EngineContainer) -> tuple[EngineContainer, dict[str, Any]]:
    target = hosts.other(container.node)
    done = hosts.migrate(container.node, container.name, target.name, "--json")
    assert done.returncode == 0, done.stderr
    return container.on(target), json.loads(done.stdout)


@contextlib.contextmanager
def http_load(hosts: Hosts) -> Iterator[dict[str, Any]]:
    """Filled in when it is over."""
    seen: dict[str, Any] = {}
    argv = [sys.executable, "-B", str(WORKLOADS / "http_load.py"), ADDRESS, "/file", str(CLIENTS)]
    process = hosts.rig.switch.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    try:
        yield seen
        output, _ = process.communicate("\n", timeout=60)
        seen.update(json.loads(output))
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("engine", ["podman"], indirect=True)
def test_nginx_fails_no_request_of_a_hundred_clients(hosts: Hosts, engine: str, image: str) -> None:
    nginx = EngineContainer.start(hosts.alpha, engine, "nginx", image, ["sh", "-c", SERVE], address=ADDRESS)
    try:
        until(lambda: "200 OK" in ask(hosts.rig.switch, ADDRESS, 80, "HEAD /file HTTP/1.0\r\n\r"), "nginx to answer")
        with http_load(hosts) as seen:
            for _ in range(2):
                nginx, _ = move(hosts, nginx)
        assert seen["failed"] == 0, seen
        assert seen["requests"] > 10 * CLIENTS
        assert seen["downloads"] >= 1
        assert seen["digests"] == [nginx.do("exec", "nginx", "sha256sum", "/srv/file").split()[0]]
    finally:
        for node in (hosts.alpha, hosts.beta):
            nginx.on(node).remove()


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
def test_postgresql_loses_no_commit(hosts: Hosts, engine: str, image: str) -> None:
    """Its data is on a volume that is copied; pgbench's sessions go on, and every index fits its table afterwards."""
    command, options = ["sh", "-c", START_POSTGRES], ["--volume", "pgdata:/data"]
    database = EngineContainer.start(hosts.alpha, engine, "pg", image, command, address=ADDRESS, options=options)
    client = ["chroot", str(node_tree()), f"{BIN}/pgbench", "--host", ADDRESS, "--username", "postgres"]

    def query(sql: str) -> str:
        argv = ["exec", "pg", f"{BIN}/psql", "-h", "/run", "-U", "postgres", "-Atc", sql]
        return database.do(*argv, check=False).strip()

    try:
        until(lambda: query("select 1") == "1", "postgres to answer", timeout_s=30)
        hosts.rig.switch.run([*client, "--initialize", "--scale=2", "--quiet", "postgres"])
        bench = hosts.rig.switch.popen(
            [*client, "--client=4", "--time=25", "--no-vacuum", "--random-seed=7", "postgres"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for _ in range(2):
            database, _ = move(hosts, database)
        output, _ = bench.communicate(timeout=60)
        assert bench.returncode == 0, output
        found = re.search(r"transactions actually processed: (\d+)", output)
        assert found is not None, output
        assert "number of failed transactions: 0 " in output
        assert query("select count(*) from pgbench_history") == found[1]
        assert int(found[1]) > 100
        sums = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)"
        assert query(sums) == "t"
        check = [f"{BIN}/pg_amcheck", "-h", "/run", "-U", "postgres", "--all", "--install-missing", "--heapallindexed"]
        assert database.do("exec", "pg", *check) == ""
    finally:
        for node in (hosts.alpha, hosts.beta):
            database.on(node).remove()
            node.run([engine, "volume", "rm", "pgdata"], check=False)
